package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
)

// NodePublishVolume makes a staged volume appear at a target.
func (n *NodeService) NodePublishVolume(_ context.Context, request *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if request.GetVolumeId() == "" || request.GetTargetPath() == "" {
		return nil, invalid("volume_id or target_path is missing")
	}
	capability := request.GetVolumeCapability()
	if err := wellFormed(capability); err != nil {
		return nil, err
	}
	if err := n.checkPodInfo(request.GetVolumeContext()); err != nil {
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
	if _, err := n.mayUse(volume, request.GetVolumeContext(), request.GetPublishContext(), capability); err != nil {
		return nil, err
	}
	staging, err := n.stagedAs(request)
	if err != nil {
		return nil, failed(err)
	}
	return &csi.NodePublishVolumeResponse{}, failed(n.publish(staging, request))
}

func (n *NodeService) checkPodInfo(volumeContext map[string]string) error {
	if !n.options.PodInfo {
		return nil
	}
	for _, key := range []string{"pod.name", "pod.namespace", "pod.uid", "serviceAccount.name", "ephemeral"} {
		if volumeContext["csi.storage.k8s.io/"+key] == "" {
			return invalid("volume_context has no csi.storage.k8s.io/%s", key)
		}
	}
	return nil
}

// stagedAs returns the staging that a request stands on.
func (n *NodeService) stagedAs(request *csi.NodePublishVolumeRequest) (*Staging, error) {
	if request.GetStagingTargetPath() == "" {
		return nil, precondition("staging_target_path is missing")
	}
	staging, err := n.staging(request.GetVolumeId())
	if err != nil {
		return nil, err
	}
	staged, err := n.isStaged(staging)
	if err != nil {
		return nil, err
	}
	capability := request.GetVolumeCapability()
	switch {
	case !staged || staging.Path != filepath.Clean(request.GetStagingTargetPath()):
		return nil, precondition("volume %s is not staged at %s", request.GetVolumeId(), request.GetStagingTargetPath())
	case staging.Block != (capability.GetBlock() != nil) || staging.Mode != capability.GetAccessMode().GetMode().String():
		return nil, invalid("volume %s is staged as %s", staging.Volume, staging.Mode)
	case staging.Block && request.GetReadonly() && !staging.ReadOnly:
		// The kernel lets a device be written through a read-only mount.
		return nil, invalid("a raw block volume is read-only only in a mode for readers")
	}
	return staging, nil
}

func (n *NodeService) publish(staging *Staging, request *csi.NodePublishVolumeRequest) error {
	target := filepath.Clean(request.GetTargetPath())
	readOnly := request.GetReadonly() || staging.ReadOnly
	was, listed := staging.Published[target]
	mounted, err := isMounted(target)
	if err != nil {
		return err
	}
	if mounted {
		if !listed || was != readOnly {
			return taken("%s is mounted in another way", target)
		}
		return n.applyGroup(staging, request)
	}
	if err := n.mayPublish(staging, target, request.GetVolumeCapability().GetAccessMode().GetMode()); err != nil {
		return err
	}
	if err := n.applyGroup(staging, request); err != nil {
		return err
	}
	source, err := n.makeTarget(staging, target)
	if err != nil {
		return err
	}
	if staging.Published == nil {
		staging.Published = map[string]bool{}
	}
	staging.Published[target] = readOnly
	if err := n.put(staging); err != nil {
		return err
	}
	return bind(source, target, readOnly && !staging.Block)
}

func (n *NodeService) mayPublish(staging *Staging, target string, m mode) error {
	for other := range staging.Published {
		mounted, err := isMounted(other)
		if err != nil {
			return err
		}
		if mounted && other != target && n.options.oneTarget(m) {
			return precondition("volume %s is published at %s, and %s allows one target", staging.Volume, other, m)
		}
	}
	return nil
}

func (n *NodeService) applyGroup(staging *Staging, request *csi.NodePublishVolumeRequest) error {
	group := request.GetVolumeCapability().GetMount().GetVolumeMountGroup()
	if group == "" || staging.ReadOnly {
		return nil
	}
	if !n.options.MountGroup {
		return invalid("volume_mount_group is not supported")
	}
	number, err := strconv.Atoi(group)
	if err != nil {
		return invalid("volume_mount_group %q is no number", group)
	}
	return ensureGroup(staging.Path, number)
}

// makeTarget returns what to bind there. The caller has made the target's parent.
func (n *NodeService) makeTarget(staging *Staging, target string) (string, error) {
	if !staging.Block {
		if err := os.Mkdir(target, 0o750); err != nil && !errors.Is(err, os.ErrExist) {
			return "", err
		}
		return staging.Path, nil
	}
	file, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return "", err
	}
	device, err := findOwnLoop(n.store.Image(volumesDir, staging.Volume), n.options.NodeName)
	return device, errors.Join(err, file.Close())
}

// NodeUnpublishVolume leaves nothing at the target.
func (n *NodeService) NodeUnpublishVolume(_ context.Context, request *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if request.GetVolumeId() == "" || request.GetTargetPath() == "" {
		return nil, invalid("volume_id or target_path is missing")
	}
	end, err := n.guard.Claim(request.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer end()

	return &csi.NodeUnpublishVolumeResponse{}, failed(n.unpublish(request.GetVolumeId(), filepath.Clean(request.GetTargetPath())))
}

func (n *NodeService) unpublish(id, target string) error {
	staging, err := n.staging(id)
	if err != nil {
		return err
	}
	if err := unmountAll(target); err != nil {
		return err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if staging == nil {
		return nil
	}
	if _, listed := staging.Published[target]; !listed {
		return nil
	}
	delete(staging.Published, target)
	return n.put(staging)
}

// at returns the staging of a volume that is really mounted at a path.
func (n *NodeService) at(id, path string) (*Staging, error) {
	staging, err := n.staging(id)
	if err != nil {
		return nil, failed(err)
	}
	staged, err := n.isStaged(staging)
	if err != nil {
		return nil, failed(err)
	}
	if staged {
		path = filepath.Clean(path)
		if path == staging.Path {
			return staging, nil
		}
		mounted, err := isMounted(path)
		if err != nil {
			return nil, failed(err)
		}
		if _, listed := staging.Published[path]; listed && mounted {
			return staging, nil
		}
		// Of a raw block volume kubelet also names a binding of its own.
		if same, err := n.isDevice(staging, path); same || err != nil {
			return staging, failed(err)
		}
	}
	return nil, notFound("volume %s is not at %s", id, path)
}

func (n *NodeService) isDevice(staging *Staging, path string) (bool, error) {
	var named, own unix.Stat_t
	if err := unix.Stat(path, &named); err != nil || named.Mode&unix.S_IFMT != unix.S_IFBLK {
		return false, nil // whatever is there, it is not the volume
	}
	device, err := findOwnLoop(n.store.Image(volumesDir, staging.Volume), n.options.NodeName)
	if err != nil || device == "" {
		return false, err
	}
	err = unix.Stat(device, &own)
	return named.Rdev == own.Rdev, err
}

// NodeGetVolumeStats answers bytes and inodes; of a device only its size.
func (n *NodeService) NodeGetVolumeStats(_ context.Context, request *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	if request.GetVolumeId() == "" || request.GetVolumePath() == "" {
		return nil, invalid("volume_id or volume_path is missing")
	}
	volume, err := n.known(request.GetVolumeId())
	if err != nil {
		return nil, err
	}
	staging, err := n.at(volume.ID, request.GetVolumePath())
	if err != nil {
		return nil, err
	}
	if staging.Block {
		return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: volume.Capacity}}}, nil
	}
	var status unix.Statfs_t
	if err := unix.Statfs(staging.Path, &status); err != nil {
		return nil, failed(err)
	}
	size := int64(status.Bsize)
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: int64(status.Blocks) * size, Available: int64(status.Bavail) * size,
			Used: int64(status.Blocks-status.Bfree) * size},
		{Unit: csi.VolumeUsage_INODES, Total: int64(status.Files), Available: int64(status.Ffree),
			Used: int64(status.Files - status.Ffree)},
	}}, nil
}

// NodeExpandVolume grows image, device and file system while they are in use.
func (n *NodeService) NodeExpandVolume(_ context.Context, request *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	if request.GetVolumeId() == "" || request.GetVolumePath() == "" {
		return nil, invalid("volume_id or volume_path is missing")
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
	staging, err := n.at(volume.ID, request.GetVolumePath())
	if err != nil {
		return nil, err
	}
	capacity, err := n.expand(volume, staging, request.GetCapacityRange())
	return &csi.NodeExpandVolumeResponse{CapacityBytes: capacity}, failed(err)
}

func (n *NodeService) expand(volume *Volume, staging *Staging, wanted *csi.CapacityRange) (int64, error) {
	capacity := volume.Capacity
	if wanted.GetRequiredBytes() > capacity {
		var err error
		if capacity, err = n.store.Grow(volume.ID, wanted, n.options); err != nil {
			return 0, err
		}
	}
	image := n.store.Image(volumesDir, volume.ID)
	device, err := findOwnLoop(image, n.options.NodeName)
	if err != nil {
		return 0, err
	}
	if err := growLoop(device); err != nil {
		return 0, err
	}
	if staging.Block || staging.ReadOnly {
		return capacity, nil
	}
	return capacity, ensureFilled(device, staging.Path)
}
