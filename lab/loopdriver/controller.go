package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

const (
	defaultSize = 1 << 30
	blockSize   = 4096
)

// Controller makes and deletes volumes for every node of the cluster.
type Controller struct {
	csi.UnimplementedControllerServer
	options *Options
	store   *Store
	guard   *InFlight
}

// CreateVolume makes an image, on the first node of the wish that has room.
func (c *Controller) CreateVolume(_ context.Context, request *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if request.GetName() == "" {
		return nil, invalid("name is missing")
	}
	if err := c.options.checkAll(request.GetVolumeCapabilities()); err != nil {
		return nil, err
	}
	if err := checkParameters(request.GetParameters()); err != nil {
		return nil, err
	}
	wish, err := c.wishOf(request)
	if err != nil {
		return nil, failed(err)
	}
	end, err := c.guard.Claim(wish.ID)
	if err != nil {
		return nil, err
	}
	defer end()

	volume, err := c.reserve(wish, request)
	if err == nil && !volume.Ready {
		if err = c.fill(volume); err != nil {
			// The caller may take the error for an end, and never ask for the volume again.
			err = errors.Join(err, c.store.Locked(func() error { return c.store.Remove(volumesDir, volume.ID) }))
		}
	}
	if err != nil {
		return nil, failed(err)
	}
	return &csi.CreateVolumeResponse{Volume: c.describe(volume)}, nil
}

// wishOf is the volume that a request asks for, with its smallest size and without a node.
func (c *Controller) wishOf(request *csi.CreateVolumeRequest) (*Volume, error) {
	fsType, err := fsTypeOf(request.GetVolumeCapabilities())
	if err != nil {
		return nil, err
	}
	wish := &Volume{
		ID: identifier("vol", request.GetName()), Name: request.GetName(), FsType: fsType,
		Parameters: ownParameters(request.GetParameters()), Source: sourceOf(request.GetVolumeContentSource()),
	}
	minimum := minimumSizes[fsType]
	if wish.Source.Kind != "" {
		if minimum, wish.FsType, err = c.inspectSource(wish); err != nil {
			return nil, err
		}
	} else if request.GetVolumeContentSource() != nil {
		return nil, invalid("the kind of volume_content_source is not supported")
	}
	wish.Capacity, err = sizeWithin(request.GetCapacityRange(), minimum)
	return wish, err
}

func sourceOf(source *csi.VolumeContentSource) Source {
	switch {
	case source.GetSnapshot() != nil:
		return Source{"snapshot", source.GetSnapshot().GetSnapshotId()}
	case source.GetVolume() != nil:
		return Source{"volume", source.GetVolume().GetVolumeId()}
	}
	return Source{}
}

// inspectSource returns the size and file system that a copy has at least.
func (c *Controller) inspectSource(wish *Volume) (int64, string, error) {
	size, fsType, _, err := c.source(wish.Source)
	if err != nil {
		return 0, "", err
	}
	if wish.FsType == "" {
		return size, fsType, nil
	}
	if fsType != "" && fsType != wish.FsType {
		return 0, "", invalid("the source has a file system %s and not %s", fsType, wish.FsType)
	}
	return size, wish.FsType, nil
}

func (c *Controller) source(source Source) (size int64, fsType, node string, err error) {
	if source.Kind == "snapshot" {
		snapshot, err := c.store.Snapshot(source.ID)
		if err != nil {
			return 0, "", "", err
		}
		if snapshot == nil || !snapshot.Ready {
			return 0, "", "", notFound("there is no snapshot %s", source.ID)
		}
		return snapshot.Size, snapshot.FsType, snapshot.Node, nil
	}
	volume, err := c.store.Volume(source.ID)
	if err != nil {
		return 0, "", "", err
	}
	if volume == nil || !volume.Ready {
		return 0, "", "", notFound("there is no volume %s", source.ID)
	}
	return volume.Capacity, volume.FsType, volume.Node, nil
}

func sizeWithin(wanted *csi.CapacityRange, minimum int64) (int64, error) {
	required, limit := wanted.GetRequiredBytes(), wanted.GetLimitBytes()
	if required < 0 || limit < 0 || limit > 0 && limit < required {
		return 0, invalid("capacity_range is from %d to %d", required, limit)
	}
	if required > math.MaxInt64-blockSize {
		return 0, outOfRange("%d bytes are too many", required)
	}
	if required == 0 {
		required = defaultSize
		if limit > 0 {
			required = min(required, limit/blockSize*blockSize)
		}
	}
	size := (max(required, minimum) + blockSize - 1) / blockSize * blockSize
	if limit > 0 && size > limit {
		return 0, outOfRange("the volume needs %d bytes, and the limit is %d", size, limit)
	}
	return size, nil
}

// reserve writes the volume's record, which takes its space, or finds the one of before.
func (c *Controller) reserve(wish *Volume, request *csi.CreateVolumeRequest) (volume *Volume, err error) {
	err = c.store.Locked(func() error {
		places, err := c.places(wish.Source, request.GetAccessibilityRequirements())
		if err != nil {
			return err
		}
		if volume, err = c.store.Volume(wish.ID); err != nil {
			return err
		}
		if volume != nil {
			return c.matches(volume, wish, request, places)
		}
		if wish.Node, err = c.withRoom(places, wish.Capacity); err != nil {
			return err
		}
		wish.Context = map[string]string{c.options.key("seal"): token()}
		volume = wish
		return c.store.PutVolume(wish)
	})
	return volume, err
}

func (c *Controller) matches(volume, wish *Volume, request *csi.CreateVolumeRequest, places []string) error {
	wanted := request.GetCapacityRange()
	limit := wanted.GetLimitBytes()
	switch {
	case volume.Capacity < wanted.GetRequiredBytes() || limit > 0 && volume.Capacity > limit:
		return taken("volume %s has %d bytes", volume.Name, volume.Capacity)
	case volume.FsType != wish.FsType:
		return taken("volume %s has the file system %q", volume.Name, volume.FsType)
	case volume.Source != wish.Source:
		return taken("volume %s has another source", volume.Name)
	case !maps.Equal(volume.Parameters, wish.Parameters):
		return taken("volume %s has other parameters", volume.Name)
	case !slices.Contains(places, volume.Node):
		return taken("volume %s is on node %s", volume.Name, volume.Node)
	}
	return nil
}

// fill makes the image; a call that repeats one that was cut off begins again.
func (c *Controller) fill(volume *Volume) error {
	image := c.store.Image(volumesDir, volume.ID)
	var err error
	switch volume.Source.Kind {
	case "":
		err = createImage(image, volume.Capacity)
	case "snapshot":
		err = copyImage(c.store.Image(snapshotsDir, volume.Source.ID), image, volume.Capacity)
	default:
		err = copyImage(c.store.Image(volumesDir, volume.Source.ID), image, volume.Capacity)
	}
	if err != nil {
		return err
	}
	return c.store.Locked(func() error {
		volume.Ready = true
		return c.store.PutVolume(volume)
	})
}

func (c *Controller) describe(volume *Volume) *csi.Volume {
	described := &csi.Volume{
		VolumeId: volume.ID, CapacityBytes: volume.Capacity, VolumeContext: volume.Context,
		AccessibleTopology: c.topologyOf(volume.Node),
	}
	switch volume.Source.Kind {
	case "snapshot":
		described.ContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: volume.Source.ID}}}
	case "volume":
		described.ContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: volume.Source.ID}}}
	}
	return described
}

// DeleteVolume refuses while the volume is attached or its image has a loop device.
func (c *Controller) DeleteVolume(_ context.Context, request *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	id := request.GetVolumeId()
	if id == "" {
		return nil, invalid("volume_id is missing")
	}
	end, err := c.guard.Claim(id)
	if err != nil {
		return nil, err
	}
	defer end()

	err = c.store.Locked(func() error {
		volume, err := c.store.Volume(id)
		if err != nil || volume == nil {
			return err
		}
		if len(volume.Attachments) > 0 {
			return precondition("volume %s is attached to %s", id, strings.Join(attachedTo(volume), ", "))
		}
		loops, err := findLoops(c.store.Image(volumesDir, id))
		if err != nil {
			return err
		}
		if len(loops) > 0 {
			return precondition("volume %s is in use on %s as %s", id, loops[0].Owner, loops[0].Device)
		}
		return c.store.Remove(volumesDir, id)
	})
	return &csi.DeleteVolumeResponse{}, failed(err)
}

// ValidateVolumeCapabilities confirms what CreateVolume would accept.
func (c *Controller) ValidateVolumeCapabilities(_ context.Context, request *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if len(request.GetVolumeCapabilities()) == 0 {
		return nil, invalid("volume_capabilities are missing")
	}
	volume, err := c.known(request.GetVolumeId())
	if err != nil {
		return nil, err
	}
	for _, capability := range request.GetVolumeCapabilities() {
		why := c.options.unsupported(capability)
		if wanted := capability.GetMount().GetFsType(); why == "" && wanted != "" && volume.FsType != "" && wanted != volume.FsType {
			why = "the volume has the file system " + volume.FsType
		}
		if why != "" {
			return &csi.ValidateVolumeCapabilitiesResponse{Message: why}, nil
		}
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext: request.GetVolumeContext(), VolumeCapabilities: request.GetVolumeCapabilities(),
		Parameters: request.GetParameters(),
	}}, nil
}

// known returns a volume that is ready, or the status for one that is not.
func (c *Controller) known(id string) (*Volume, error) {
	if id == "" {
		return nil, invalid("volume_id is missing")
	}
	volume, err := c.store.Volume(id)
	if err != nil {
		return nil, failed(err)
	}
	if volume == nil || !volume.Ready {
		return nil, notFound("there is no volume %s", id)
	}
	return volume, nil
}

// ControllerExpandVolume lengthens the image; the node grows the device and the file system.
func (c *Controller) ControllerExpandVolume(_ context.Context, request *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	if request.GetCapacityRange() == nil {
		return nil, invalid("capacity_range is missing")
	}
	if _, err := c.known(request.GetVolumeId()); err != nil {
		return nil, err
	}
	end, err := c.guard.Claim(request.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer end()

	capacity, err := c.store.Grow(request.GetVolumeId(), request.GetCapacityRange(), c.options)
	if err != nil {
		return nil, failed(err)
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: capacity, NodeExpansionRequired: true}, nil
}

// Grow has a volume's image and record as large as wanted; both roles may be asked to.
func (s *Store) Grow(id string, wanted *csi.CapacityRange, options *Options) (capacity int64, err error) {
	size, err := sizeWithin(wanted, blockSize)
	if err != nil {
		return 0, err
	}
	err = s.Locked(func() error {
		volume, err := s.Volume(id)
		if err != nil {
			return err
		}
		if volume == nil {
			return notFound("there is no volume %s", id)
		}
		image := s.Image(volumesDir, id)
		if capacity = volume.Capacity; capacity >= wanted.GetRequiredBytes() {
			return growImage(image, capacity)
		}
		if loops, err := findLoops(image); options.Expansion == "offline" && (err != nil || len(loops) > 0) {
			return errors.Join(err, precondition("volume %s is in use and can grow only when it is not", id))
		}
		used, err := s.Used(volume.Node)
		if err != nil {
			return err
		}
		if more := size - volume.Capacity; more > options.Capacity-used {
			return outOfRange("%d bytes more are wanted, and %d are free", more, options.Capacity-used)
		}
		volume.Capacity, capacity = size, size
		// The record first: space that is promised is space that is taken.
		if err := s.PutVolume(volume); err != nil {
			return err
		}
		return growImage(image, size)
	})
	return capacity, err
}

func identifier(kind, name string) string {
	sum := sha256.Sum256([]byte(name))
	return kind + "-" + hex.EncodeToString(sum[:12])
}

func token() string {
	bytes := make([]byte, 8)
	rand.Read(bytes) // never fails, as its documentation says
	return hex.EncodeToString(bytes)
}

// ownParameters leaves out what the sidecar adds of the claim, which may be re-created.
func ownParameters(given map[string]string) map[string]string {
	own := maps.Clone(given)
	maps.DeleteFunc(own, func(key, _ string) bool { return strings.HasPrefix(key, "csi.storage.k8s.io/") })
	return own
}

func attachedTo(volume *Volume) []string { return slices.Sorted(maps.Keys(volume.Attachments)) }
