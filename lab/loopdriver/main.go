// Loopdriver is a CSI driver to test other drivers' callers with: its volumes are
// image files behind loop devices.
//
// It is strict where real drivers may be strict: what the specification lets a driver
// refuse, it refuses, so that a wrong call shows. The kernel is asked what is mounted
// and attached; files only say what was wanted. All nodes of a cluster share one state
// directory and one kernel, and each driver name has a state directory of its own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
)

const version = "1.0.0"

// Options are what one process of the driver is told at its start.
type Options struct {
	DriverName  string
	Mode        string
	Endpoint    string
	StateDir    string
	KubeletDir  string
	NodeName    string
	NodeID      string
	MaxVolumes  int64
	Capacity    int64
	Topology    bool
	Attach      bool
	MountGroup  bool
	PodInfo     bool
	MultiWriter bool
	Expansion   string
	Secret      string
	SecretCalls string
	NoRegister  bool
	Health      string
}

func (o *Options) controls() bool { return o.Mode != "node" }
func (o *Options) mounts() bool   { return o.Mode != "controller" }

// key is a name in the driver's own part of maps that others write to as well.
func (o *Options) key(name string) string { return o.DriverName + "/" + name }

func parse(arguments []string) (*Options, error) {
	o := &Options{}
	set := flag.NewFlagSet("loopdriver", flag.ContinueOnError)
	set.StringVar(&o.DriverName, "driver-name", "loop.csi.example.com", "the name that GetPluginInfo answers")
	set.StringVar(&o.Mode, "mode", "all", "controller, node or all")
	set.StringVar(&o.Endpoint, "endpoint", "", "socket as unix:///path; <kubelet dir>/plugins/<driver name>/csi.sock when empty")
	set.StringVar(&o.StateDir, "state-dir", "", "directory shared by all nodes of the cluster")
	set.StringVar(&o.KubeletDir, "kubelet-dir", "/var/lib/kubelet", "where plugins and plugins_registry are")
	set.StringVar(&o.NodeName, "node-name", os.Getenv("NODE_NAME"), "this node, as in its topology")
	set.StringVar(&o.NodeID, "node-id", "", "this node, as in ControllerPublishVolume; the node's name when empty")
	set.Int64Var(&o.MaxVolumes, "max-volumes", 0, "limit of a node, 0 for none; the file max-volumes of the state directory overrides it")
	set.Int64Var(&o.Capacity, "capacity-bytes", 100<<30, "what the volumes and snapshots of a node may have together")
	set.BoolVar(&o.Topology, "topology", true, "a volume is on one node; else every node reaches every volume")
	set.BoolVar(&o.Attach, "attach-required", false, "volumes need ControllerPublishVolume")
	set.BoolVar(&o.MountGroup, "volume-mount-group", false, "apply volume_mount_group")
	set.BoolVar(&o.PodInfo, "require-pod-info", false, "NodePublishVolume must say which pod it is for")
	set.BoolVar(&o.MultiWriter, "single-node-multi-writer", true, "tell writers of one node from each other")
	set.StringVar(&o.Expansion, "expansion", "online", "online, offline or none")
	set.StringVar(&o.Secret, "require-secret", "", "key=value that must be among the secrets of the calls of --secret-calls")
	set.StringVar(&o.SecretCalls, "secret-calls", "NodeStageVolume,NodePublishVolume", "methods, separated by commas")
	set.BoolVar(&o.NoRegister, "no-registration", false, "open no socket in plugins_registry")
	set.StringVar(&o.Health, "health-address", "", "serve /healthz here; nowhere when empty")
	if err := set.Parse(arguments); err != nil {
		return nil, err
	}
	return o, o.check(set.Args())
}

func (o *Options) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q", rest[0])
	case o.Mode != "controller" && o.Mode != "node" && o.Mode != "all":
		return fmt.Errorf("--mode=%s: want controller, node or all", o.Mode)
	case o.Expansion != "online" && o.Expansion != "offline" && o.Expansion != "none":
		return fmt.Errorf("--expansion=%s: want online, offline or none", o.Expansion)
	case o.StateDir == "":
		return errors.New("--state-dir is required")
	case o.mounts() && o.NodeName == "":
		return errors.New("--node-name is required by the node role")
	case o.Secret != "" && !strings.Contains(o.Secret, "="):
		return errors.New("--require-secret: want key=value")
	}
	if o.NodeID == "" {
		o.NodeID = o.NodeName
	}
	if o.Endpoint == "" {
		o.Endpoint = "unix://" + filepath.Join(o.KubeletDir, "plugins", o.DriverName, "csi.sock")
	}
	if !strings.HasPrefix(o.Endpoint, "unix:///") {
		return fmt.Errorf("--endpoint=%s: want unix:///path", o.Endpoint)
	}
	return nil
}

func main() {
	log.SetFlags(log.LstdFlags | log.Lmicroseconds)
	options, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = run(options)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func run(o *Options) error {
	store, err := OpenStore(o.StateDir)
	if err != nil {
		return err
	}
	role := "controller"
	if o.mounts() {
		role = o.NodeName
		if err := store.PutNode(Node{ID: o.NodeID, Name: o.NodeName, MaxVolumes: o.MaxVolumes}); err != nil {
			return err
		}
	}
	faults := &Faults{store: store, node: role}
	calls, err := OpenCalls(filepath.Join(o.StateDir, "calls"), role)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.ChainUnaryInterceptor(calls.Intercept, faults.Intercept, o.demandSecrets))
	csi.RegisterIdentityServer(server, &Identity{options: o})
	guard := &InFlight{}
	if o.controls() {
		csi.RegisterControllerServer(server, &Controller{options: o, store: store, guard: guard})
	}
	if o.mounts() {
		csi.RegisterNodeServer(server, &NodeService{options: o, store: store, guard: guard})
	}
	return serve(o, server)
}

func serve(o *Options, server *grpc.Server) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	socket := strings.TrimPrefix(o.Endpoint, "unix://")
	listener, err := listen(socket)
	if err != nil {
		return err
	}
	failed := make(chan error, 3)
	go func() { failed <- server.Serve(listener) }()

	registration := &Registration{driver: o.DriverName, endpoint: socket}
	registrar := grpc.NewServer()
	registers := o.mounts() && !o.NoRegister
	if registers {
		if err := registration.serve(registrar, filepath.Join(o.KubeletDir, "plugins_registry"), failed); err != nil {
			return err
		}
	}
	if o.Health != "" {
		go func() { failed <- http.ListenAndServe(o.Health, registration.health(registers)) }()
	}
	log.Printf("%s: %s on %s", o.DriverName, o.Mode, socket)
	select {
	case err = <-failed:
	case <-ctx.Done():
		registrar.GracefulStop()
		server.GracefulStop()
	}
	return err
}

// listen opens a socket in the place of one that a dead process left.
func listen(socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		return nil, err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", socket)
}
