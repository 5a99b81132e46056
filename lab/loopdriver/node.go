package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// NodeService mounts volumes on one node.
type NodeService struct {
	csi.UnimplementedNodeServer
	options *Options
	store   *Store
	guard   *InFlight
}

// Staging is what a node was asked to do with a volume. It may outlive the mounts: whether
// the volume is staged or published is always the kernel's to answer.
type Staging struct {
	Volume   string   `json:"volume"`
	Path     string   `json:"path"`
	Block    bool     `json:"block"`
	FsType   string   `json:"fs_type,omitempty"`
	Flags    []string `json:"mount_flags,omitempty"`
	Mode     string   `json:"mode"`
	ReadOnly bool     `json:"read_only"`
	// Published has the targets, and whether each is read-only.
	Published map[string]bool `json:"published,omitempty"`
}

func (n *NodeService) stagingFile(volume string) (string, bool) {
	return filepath.Join(n.store.directory, stagedDir, n.options.NodeName, volume+".json"), safeName.MatchString(volume)
}

func (n *NodeService) staging(volume string) (*Staging, error) {
	file, safe := n.stagingFile(volume)
	if !safe {
		return nil, nil
	}
	return readJSON[Staging](file)
}

func (n *NodeService) put(staging *Staging) error {
	file, _ := n.stagingFile(staging.Volume)
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return err
	}
	return writeJSON(file, staging)
}

func (n *NodeService) forget(volume string) error {
	file, safe := n.stagingFile(volume)
	if err := os.Remove(file); safe && err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// isStaged asks the kernel whether a staging is really there.
func (n *NodeService) isStaged(staging *Staging) (bool, error) {
	if staging == nil {
		return false, nil
	}
	device, err := findOwnLoop(n.store.Image(volumesDir, staging.Volume), n.options.NodeName)
	if err != nil || device == "" || staging.Block {
		return device != "", err
	}
	return isMounted(staging.Path)
}

// known returns a volume of this node, or the status for one that it has not.
func (n *NodeService) known(id string) (*Volume, error) {
	volume, err := n.store.Volume(id)
	if err != nil {
		return nil, failed(err)
	}
	if volume == nil || !volume.Ready {
		return nil, notFound("there is no volume %s", id)
	}
	if n.options.Topology && volume.Node != n.options.NodeName {
		return nil, precondition("volume %s is on node %s", id, volume.Node)
	}
	return volume, nil
}

// mayUse checks what the caller must hand on from the controller's answers.
func (n *NodeService) mayUse(volume *Volume, volumeContext, publishContext map[string]string, capability *csi.VolumeCapability) (*Attachment, error) {
	for key, value := range volume.Context {
		if volumeContext[key] != value {
			return nil, invalid("volume_context is not what CreateVolume answered: %s is %q", key, volumeContext[key])
		}
	}
	if !n.options.Attach {
		return &Attachment{}, nil
	}
	attachment, is := volume.Attachments[n.options.NodeID]
	key := n.options.key("attachment")
	switch {
	case !is:
		return nil, precondition("volume %s is not attached to %s", volume.ID, n.options.NodeID)
	case publishContext[key] != attachment.Token:
		return nil, invalid("publish_context is not what ControllerPublishVolume answered: %s is %q", key, publishContext[key])
	case attachment.Mode != capability.GetAccessMode().GetMode().String() || attachment.Block != (capability.GetBlock() != nil):
		return nil, precondition("volume %s is attached as %s", volume.ID, attachment.Mode)
	}
	return &attachment, nil
}

// NodeStageVolume attaches a loop device, and mounts it when it is to be a file system.
func (n *NodeService) NodeStageVolume(_ context.Context, request *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	if request.GetVolumeId() == "" || request.GetStagingTargetPath() == "" {
		return nil, invalid("volume_id or staging_target_path is missing")
	}
	capability := request.GetVolumeCapability()
	if err := wellFormed(capability); err != nil {
		return nil, err
	}
	end, err := n.guard.Claim(request.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer end()

	volume, err := n.known(request.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if why := n.options.unsupported(capability); why != "" {
		return nil, invalid("%s", why)
	}
	attachment, err := n.mayUse(volume, request.GetVolumeContext(), request.GetPublishContext(), capability)
	if err != nil {
		return nil, err
	}
	wanted := &Staging{
		Volume: volume.ID, Path: filepath.Clean(request.GetStagingTargetPath()), Block: capability.GetBlock() != nil,
		FsType: capability.GetMount().GetFsType(), Flags: capability.GetMount().GetMountFlags(),
		Mode:     capability.GetAccessMode().GetMode().String(),
		ReadOnly: attachment.ReadOnly || readsOnly(capability.GetAccessMode().GetMode()),
	}
	return &csi.NodeStageVolumeResponse{}, failed(n.stage(volume, wanted, manyNodes(capability.GetAccessMode().GetMode())))
}

func (n *NodeService) stage(volume *Volume, wanted *Staging, shared bool) error {
	existing, err := n.staging(volume.ID)
	if err != nil {
		return err
	}
	staged, err := n.isStaged(existing)
	if err != nil {
		return err
	}
	if staged {
		return sameStaging(existing, wanted)
	}
	image := n.store.Image(volumesDir, volume.ID)
	loops, err := findLoops(image)
	if err != nil {
		return err
	}
	for _, loop := range loops {
		if loop.Owner != ownerTag(n.options.NodeName) && !shared {
			return precondition("volume %s is in use on %s", volume.ID, loop.Owner)
		}
	}
	if status, err := os.Stat(wanted.Path); err != nil || !status.IsDir() {
		return errors.Join(precondition("%s is no directory", wanted.Path), err)
	}
	if existing != nil {
		wanted.Published = existing.Published // of before a restart; a binding to nothing is still to be undone
	}
	if err := n.put(wanted); err != nil {
		return err
	}
	// What a call left that was cut off between device and mount.
	if err := detachLoop(image, n.options.NodeName); err != nil {
		return err
	}
	return n.present(image, wanted)
}

func sameStaging(existing, wanted *Staging) error {
	same := existing.Block == wanted.Block && existing.FsType == wanted.FsType && existing.Mode == wanted.Mode &&
		existing.ReadOnly == wanted.ReadOnly && slices.Equal(existing.Flags, wanted.Flags)
	switch {
	case existing.Path != wanted.Path:
		return precondition("volume %s is staged at %s", existing.Volume, existing.Path)
	case !same:
		return taken("volume %s is staged as %s with %q", existing.Volume, existing.Mode, existing.Flags)
	}
	return nil
}

// present gives the image a device, and the device a mount.
func (n *NodeService) present(image string, wanted *Staging) error {
	if wanted.Block {
		device, err := attachLoop(image, n.options.NodeName, wanted.ReadOnly, false)
		if err != nil {
			return err
		}
		return device.Close()
	}
	// Writable also for readers: a first use formats, and a copy may have a journal to replay.
	device, err := attachLoop(image, n.options.NodeName, false, true)
	if err != nil {
		return err
	}
	defer device.Close()
	fsType, err := ensureFormatted(image, device.Name(), wanted.FsType)
	if err != nil {
		return err
	}
	options := wanted.Flags
	if wanted.ReadOnly {
		options = append(slices.Clone(options), "ro")
	} else if err := ensureFilledOffline(device.Name()); err != nil {
		return err
	}
	if err := mountFilesystem(device.Name(), wanted.Path, fsType, options); err != nil {
		return err
	}
	if slices.Contains(options, "ro") {
		return nil
	}
	if err := ensureFilled(device.Name(), wanted.Path); err != nil {
		return errors.Join(err, unmountAll(wanted.Path))
	}
	return nil
}

// NodeUnstageVolume undoes NodeStageVolume and returns when the kernel let go of the image.
func (n *NodeService) NodeUnstageVolume(_ context.Context, request *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	id := request.GetVolumeId()
	if id == "" || request.GetStagingTargetPath() == "" {
		return nil, invalid("volume_id or staging_target_path is missing")
	}
	end, err := n.guard.Claim(id)
	if err != nil {
		return nil, err
	}
	defer end()

	staging, err := n.staging(id)
	if err != nil {
		return nil, failed(err)
	}
	if staging == nil {
		return &csi.NodeUnstageVolumeResponse{}, nil
	}
	return &csi.NodeUnstageVolumeResponse{}, failed(n.unstage(staging, filepath.Clean(request.GetStagingTargetPath())))
}

func (n *NodeService) unstage(staging *Staging, path string) error {
	staged, err := n.isStaged(staging)
	if err != nil {
		return err
	}
	if staged && staging.Path != path {
		return precondition("volume %s is staged at %s", staging.Volume, staging.Path)
	}
	for target := range staging.Published {
		mounted, err := isMounted(target)
		if err != nil {
			return err
		}
		if mounted {
			return precondition("volume %s is still published at %s", staging.Volume, target)
		}
	}
	if !staging.Block {
		if err := unmountAll(staging.Path); err != nil {
			return err
		}
	}
	if err := detachLoop(n.store.Image(volumesDir, staging.Volume), n.options.NodeName); err != nil {
		return err
	}
	return n.forget(staging.Volume)
}

// NodeGetCapabilities answers what the options allow.
func (n *NodeService) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	kinds := []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME, csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
	}
	if n.options.Expansion != "none" {
		kinds = append(kinds, csi.NodeServiceCapability_RPC_EXPAND_VOLUME)
	}
	if n.options.MultiWriter {
		kinds = append(kinds, csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER)
	}
	if n.options.MountGroup {
		kinds = append(kinds, csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP)
	}
	answer := &csi.NodeGetCapabilitiesResponse{}
	for _, kind := range kinds {
		answer.Capabilities = append(answer.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: kind}},
		})
	}
	return answer, nil
}

// NodeGetInfo answers where this is, and the limit of now.
func (n *NodeService) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	limit, err := n.store.MaxVolumes(n.options.MaxVolumes)
	if err != nil {
		return nil, failed(err)
	}
	answer := &csi.NodeGetInfoResponse{NodeId: n.options.NodeID, MaxVolumesPerNode: limit}
	if n.options.Topology {
		answer.AccessibleTopology = &csi.Topology{Segments: map[string]string{n.options.key("node"): n.options.NodeName}}
	}
	return answer, nil
}
