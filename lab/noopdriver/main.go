// Noopdriver is a CSI driver that does nothing, at once: the least that any driver
// costs its callers. A driver that delegates is measured against it, because one call
// more is what delegating cannot be without.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const version = "1.0.0"

func main() {
	driver := &Driver{}
	var socket, registry string
	flag.StringVar(&driver.name, "driver-name", "noop.csi.example.com", "the name that GetPluginInfo answers")
	flag.StringVar(&driver.node, "node-name", "", "this node, as in its topology")
	flag.StringVar(&socket, "socket", "", "path of the socket to serve")
	flag.StringVar(&registry, "registry", "", "kubelet's plugins_registry, to be found there; none when empty")
	flag.Parse()
	if err := run(driver, socket, registry); err != nil {
		log.Fatal(err)
	}
}

func run(driver *Driver, socket, registry string) error {
	if socket == "" || driver.node == "" {
		return errors.New("--socket and --node-name are required")
	}
	server := grpc.NewServer()
	csi.RegisterIdentityServer(server, driver)
	csi.RegisterControllerServer(server, driver)
	csi.RegisterNodeServer(server, driver)
	failed := make(chan error, 2)
	if err := serve(server, socket, failed); err != nil {
		return err
	}
	if registry != "" {
		registrar := grpc.NewServer()
		registerapi.RegisterRegistrationServer(registrar, &registration{name: driver.name, endpoint: socket})
		if err := serve(registrar, filepath.Join(registry, driver.name+"-reg.sock"), failed); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// serve opens a socket in the place of one that a dead process left.
func serve(server *grpc.Server, socket string, failed chan<- error) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("socket of before: %w", err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	go func() { failed <- server.Serve(listener) }()
	return nil
}

// registration tells who looks into plugins_registry where the driver answers.
type registration struct {
	registerapi.UnimplementedRegistrationServer
	name     string
	endpoint string
}

func (r *registration) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{
		Type: registerapi.CSIPlugin, Name: r.name, Endpoint: r.endpoint, SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (r *registration) NotifyRegistrationStatus(context.Context, *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	return &registerapi.RegistrationStatusResponse{}, nil
}
