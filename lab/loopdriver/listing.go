package main

import (
	"context"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// pageOf cuts a page from entries in the order of ids; a token is the last id of the page before.
func pageOf[E any](entries []E, id func(E) string, prefix, token string, limit int32) ([]E, string, error) {
	if limit < 0 {
		return nil, "", invalid("max_entries is negative")
	}
	if token != "" && !strings.HasPrefix(token, prefix) {
		return nil, "", aborted("starting_token %q is none of this driver's", token)
	}
	start := 0
	for start < len(entries) && token != "" && id(entries[start]) <= token {
		start++
	}
	entries = entries[start:]
	if limit == 0 || int(limit) >= len(entries) {
		return entries, "", nil
	}
	return entries[:limit], id(entries[limit-1]), nil
}

// ListVolumes answers pages in the order of ids.
func (c *Controller) ListVolumes(_ context.Context, request *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	volumes, err := c.store.Volumes()
	if err != nil {
		return nil, failed(err)
	}
	var entries []*csi.ListVolumesResponse_Entry
	for _, volume := range volumes {
		if volume.Ready {
			entries = append(entries, &csi.ListVolumesResponse_Entry{
				Volume: c.describe(volume),
				Status: &csi.ListVolumesResponse_VolumeStatus{PublishedNodeIds: attachedTo(volume)},
			})
		}
	}
	id := func(entry *csi.ListVolumesResponse_Entry) string { return entry.GetVolume().GetVolumeId() }
	page, next, err := pageOf(entries, id, "vol-", request.GetStartingToken(), request.GetMaxEntries())
	return &csi.ListVolumesResponse{Entries: page, NextToken: next}, err
}

// ControllerGetVolume answers one volume and the nodes it is attached to.
func (c *Controller) ControllerGetVolume(_ context.Context, request *csi.ControllerGetVolumeRequest) (*csi.ControllerGetVolumeResponse, error) {
	volume, err := c.known(request.GetVolumeId())
	if err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeResponse{
		Volume: c.describe(volume),
		Status: &csi.ControllerGetVolumeResponse_VolumeStatus{PublishedNodeIds: attachedTo(volume)},
	}, nil
}

// ControllerGetCapabilities answers what the options allow.
func (c *Controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	kinds := []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
		csi.ControllerServiceCapability_RPC_GET_VOLUME,
		csi.ControllerServiceCapability_RPC_GET_CAPACITY,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
		csi.ControllerServiceCapability_RPC_GET_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
	}
	if c.options.Attach {
		kinds = append(kinds, csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
			csi.ControllerServiceCapability_RPC_PUBLISH_READONLY,
			csi.ControllerServiceCapability_RPC_LIST_VOLUMES_PUBLISHED_NODES)
	}
	if c.options.MultiWriter {
		kinds = append(kinds, csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER)
	}
	if c.options.Expansion != "none" {
		kinds = append(kinds, csi.ControllerServiceCapability_RPC_EXPAND_VOLUME)
	}
	answer := &csi.ControllerGetCapabilitiesResponse{}
	for _, kind := range kinds {
		answer.Capabilities = append(answer.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: kind}},
		})
	}
	return answer, nil
}
