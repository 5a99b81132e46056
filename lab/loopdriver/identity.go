package main

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// Identity says what the driver can do; both roles answer the same.
type Identity struct {
	csi.UnimplementedIdentityServer
	options *Options
}

// GetPluginInfo answers the driver's name.
func (i *Identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: i.options.DriverName, VendorVersion: version}, nil
}

// GetPluginCapabilities answers what the options allow.
func (i *Identity) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	answer := &csi.GetPluginCapabilitiesResponse{}
	services := []csi.PluginCapability_Service_Type{csi.PluginCapability_Service_CONTROLLER_SERVICE}
	if i.options.Topology {
		services = append(services, csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS)
	}
	for _, service := range services {
		answer.Capabilities = append(answer.Capabilities, &csi.PluginCapability{
			Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: service}},
		})
	}
	kinds := map[string]csi.PluginCapability_VolumeExpansion_Type{
		"online":  csi.PluginCapability_VolumeExpansion_ONLINE,
		"offline": csi.PluginCapability_VolumeExpansion_OFFLINE,
	}
	if kind, expands := kinds[i.options.Expansion]; expands {
		answer.Capabilities = append(answer.Capabilities, &csi.PluginCapability{
			Type: &csi.PluginCapability_VolumeExpansion_{VolumeExpansion: &csi.PluginCapability_VolumeExpansion{Type: kind}},
		})
	}
	return answer, nil
}

// Probe answers that the driver is ready, since a process that serves is.
func (i *Identity) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}
