package main

import (
	"context"
	"errors"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// CreateSnapshot copies a volume's image as it is at one moment, in use or not.
func (c *Controller) CreateSnapshot(_ context.Context, request *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	if request.GetName() == "" || request.GetSourceVolumeId() == "" {
		return nil, invalid("name or source_volume_id is missing")
	}
	if err := checkParameters(request.GetParameters()); err != nil {
		return nil, err
	}
	id := identifier("snap", request.GetName())
	end, err := c.guard.Claim(id)
	if err != nil {
		return nil, err
	}
	defer end()

	snapshot, err := c.reserveSnapshot(id, request)
	if err == nil && !snapshot.Ready {
		if err = c.fillSnapshot(snapshot); err != nil {
			err = errors.Join(err, c.store.Locked(func() error { return c.store.Remove(snapshotsDir, id) }))
		}
	}
	if err != nil {
		return nil, failed(err)
	}
	return &csi.CreateSnapshotResponse{Snapshot: describeSnapshot(snapshot)}, nil
}

func (c *Controller) reserveSnapshot(id string, request *csi.CreateSnapshotRequest) (snapshot *Snapshot, err error) {
	err = c.store.Locked(func() error {
		if snapshot, err = c.store.Snapshot(id); err != nil {
			return err
		}
		if snapshot != nil {
			if snapshot.Volume != request.GetSourceVolumeId() {
				return taken("snapshot %s is of volume %s", snapshot.Name, snapshot.Volume)
			}
			return nil
		}
		volume, err := c.known(request.GetSourceVolumeId())
		if err != nil {
			return err
		}
		used, err := c.store.Used(volume.Node)
		if err != nil {
			return err
		}
		if volume.Capacity > c.options.Capacity-used {
			return exhausted("there is no room for %d bytes", volume.Capacity)
		}
		snapshot = &Snapshot{
			ID: id, Name: request.GetName(), Volume: volume.ID, Node: volume.Node,
			Size: volume.Capacity, FsType: volume.FsType, Created: time.Now().UTC(),
		}
		return c.store.PutSnapshot(snapshot)
	})
	return snapshot, err
}

func (c *Controller) fillSnapshot(snapshot *Snapshot) error {
	target := c.store.Image(snapshotsDir, snapshot.ID)
	if err := copyImage(c.store.Image(volumesDir, snapshot.Volume), target, snapshot.Size); err != nil {
		return err
	}
	return c.store.Locked(func() error {
		snapshot.Ready = true
		return c.store.PutSnapshot(snapshot)
	})
}

func describeSnapshot(snapshot *Snapshot) *csi.Snapshot {
	return &csi.Snapshot{
		SnapshotId: snapshot.ID, SourceVolumeId: snapshot.Volume, SizeBytes: snapshot.Size,
		CreationTime: timestamppb.New(snapshot.Created), ReadyToUse: snapshot.Ready,
	}
}

// DeleteSnapshot succeeds also for what does not exist; volumes made of it are copies.
func (c *Controller) DeleteSnapshot(_ context.Context, request *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	if request.GetSnapshotId() == "" {
		return nil, invalid("snapshot_id is missing")
	}
	end, err := c.guard.Claim(request.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	defer end()

	err = c.store.Locked(func() error { return c.store.Remove(snapshotsDir, request.GetSnapshotId()) })
	return &csi.DeleteSnapshotResponse{}, failed(err)
}

// GetSnapshot answers one snapshot.
func (c *Controller) GetSnapshot(_ context.Context, request *csi.GetSnapshotRequest) (*csi.GetSnapshotResponse, error) {
	if request.GetSnapshotId() == "" {
		return nil, invalid("snapshot_id is missing")
	}
	snapshot, err := c.store.Snapshot(request.GetSnapshotId())
	if err != nil {
		return nil, failed(err)
	}
	if snapshot == nil {
		return nil, notFound("there is no snapshot %s", request.GetSnapshotId())
	}
	return &csi.GetSnapshotResponse{Snapshot: describeSnapshot(snapshot)}, nil
}

// ListSnapshots answers pages in the order of ids.
func (c *Controller) ListSnapshots(_ context.Context, request *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	snapshots, err := c.store.Snapshots()
	if err != nil {
		return nil, failed(err)
	}
	var entries []*csi.ListSnapshotsResponse_Entry
	for _, snapshot := range snapshots {
		asked := (request.GetSnapshotId() == "" || request.GetSnapshotId() == snapshot.ID) &&
			(request.GetSourceVolumeId() == "" || request.GetSourceVolumeId() == snapshot.Volume)
		if asked {
			entries = append(entries, &csi.ListSnapshotsResponse_Entry{Snapshot: describeSnapshot(snapshot)})
		}
	}
	id := func(entry *csi.ListSnapshotsResponse_Entry) string { return entry.GetSnapshot().GetSnapshotId() }
	page, next, err := pageOf(entries, id, "snap-", request.GetStartingToken(), request.GetMaxEntries())
	return &csi.ListSnapshotsResponse{Entries: page, NextToken: next}, err
}
