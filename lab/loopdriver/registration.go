package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"

	"google.golang.org/grpc"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Registration tells kubelet of the driver, in the place of a node-driver-registrar.
type Registration struct {
	registerapi.UnimplementedRegistrationServer
	driver   string
	endpoint string
	accepted atomic.Bool
}

// serve opens the socket that kubelet finds the driver by; kubelet watches the directory.
func (r *Registration) serve(server *grpc.Server, directory string, failed chan<- error) error {
	if err := os.MkdirAll(directory, 0o750); err != nil {
		return err
	}
	listener, err := listen(filepath.Join(directory, r.driver+"-reg.sock"))
	if err != nil {
		return err
	}
	registerapi.RegisterRegistrationServer(server, r)
	go func() { failed <- server.Serve(listener) }()
	return nil
}

// GetInfo says where the driver answers, as kubelet sees the path.
func (r *Registration) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{
		Type: registerapi.CSIPlugin, Name: r.driver, Endpoint: r.endpoint, SupportedVersions: []string{"1.0.0"},
	}, nil
}

// NotifyRegistrationStatus keeps what kubelet thinks; kubelet tries again by itself.
func (r *Registration) NotifyRegistrationStatus(_ context.Context, status *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	log.Printf("kubelet: registered=%t %s", status.GetPluginRegistered(), status.GetError())
	r.accepted.Store(status.GetPluginRegistered())
	return &registerapi.RegistrationStatusResponse{}, nil
}

// health answers 200 once kubelet knows the driver, or at once when it need not.
func (r *Registration) health(registers bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(answer http.ResponseWriter, _ *http.Request) {
		if registers && !r.accepted.Load() {
			answer.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(answer, "kubelet has not registered the driver")
			return
		}
		fmt.Fprintln(answer, "ok")
	})
	return mux
}
