package main

import (
	"context"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// ControllerPublishVolume lets a node stage a volume.
func (c *Controller) ControllerPublishVolume(_ context.Context, request *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	if !c.options.Attach {
		return c.UnimplementedControllerServer.ControllerPublishVolume(nil, nil)
	}
	if request.GetVolumeId() == "" || request.GetNodeId() == "" {
		return nil, invalid("volume_id or node_id is missing")
	}
	if err := wellFormed(request.GetVolumeCapability()); err != nil {
		return nil, err
	}
	end, err := c.guard.Claim(request.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer end()

	wanted := Attachment{
		Token: token(), Mode: request.GetVolumeCapability().GetAccessMode().GetMode().String(),
		Block: request.GetVolumeCapability().GetBlock() != nil, ReadOnly: request.GetReadonly(),
	}
	err = c.store.Locked(func() error {
		volume, err := c.known(request.GetVolumeId())
		if err != nil {
			return err
		}
		node, err := c.store.Node(request.GetNodeId())
		if err != nil {
			return err
		}
		if node == nil {
			return notFound("there is no node %s", request.GetNodeId())
		}
		if why := c.options.unsupported(request.GetVolumeCapability()); why != "" {
			return invalid("%s", why)
		}
		if existing, is := volume.Attachments[node.ID]; is {
			wanted.Token = existing.Token
			if existing != wanted {
				return taken("volume %s is attached to %s in another way", volume.ID, node.ID)
			}
			return nil
		}
		if err := c.mayAttach(volume, node, request.GetVolumeCapability().GetAccessMode().GetMode()); err != nil {
			return err
		}
		if volume.Attachments == nil {
			volume.Attachments = map[string]Attachment{}
		}
		volume.Attachments[node.ID] = wanted
		return c.store.PutVolume(volume)
	})
	if err != nil {
		return nil, failed(err)
	}
	return &csi.ControllerPublishVolumeResponse{PublishContext: map[string]string{c.options.key("attachment"): wanted.Token}}, nil
}

func (c *Controller) mayAttach(volume *Volume, node *Node, m mode) error {
	if c.options.Topology && volume.Node != node.Name {
		return precondition("volume %s is on node %s", volume.ID, volume.Node)
	}
	for id, other := range volume.Attachments {
		if !manyNodes(m) || other.Mode != m.String() {
			return precondition("volume %s is attached to %s as %s", volume.ID, id, other.Mode)
		}
	}
	limit, err := c.store.MaxVolumes(node.MaxVolumes)
	if err != nil {
		return err
	}
	volumes, err := c.store.Volumes()
	if err != nil {
		return err
	}
	var attached int64
	for _, volume := range volumes {
		if _, is := volume.Attachments[node.ID]; is {
			attached++
		}
	}
	if limit > 0 && attached >= limit {
		return exhausted("%d volumes are attached to %s, which is its limit", attached, node.ID)
	}
	return nil
}

// ControllerUnpublishVolume ends an attachment that no loop device stands on any more.
func (c *Controller) ControllerUnpublishVolume(_ context.Context, request *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	if !c.options.Attach {
		return c.UnimplementedControllerServer.ControllerUnpublishVolume(nil, nil)
	}
	if request.GetVolumeId() == "" {
		return nil, invalid("volume_id is missing")
	}
	end, err := c.guard.Claim(request.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer end()

	err = c.store.Locked(func() error {
		volume, err := c.store.Volume(request.GetVolumeId())
		if err != nil || volume == nil {
			return err
		}
		loops, err := findLoops(c.store.Image(volumesDir, volume.ID))
		if err != nil {
			return err
		}
		for _, id := range attachedTo(volume) {
			if request.GetNodeId() != "" && request.GetNodeId() != id {
				continue
			}
			if err := c.detached(volume, id, loops); err != nil {
				return err
			}
			delete(volume.Attachments, id)
		}
		return c.store.PutVolume(volume)
	})
	return &csi.ControllerUnpublishVolumeResponse{}, failed(err)
}

func (c *Controller) detached(volume *Volume, id string, loops []Loop) error {
	node, err := c.store.Node(id)
	if err != nil || node == nil {
		return err
	}
	for _, loop := range loops {
		if loop.Owner == ownerTag(node.Name) {
			return precondition("volume %s is still staged on %s as %s", volume.ID, node.Name, strings.TrimPrefix(loop.Device, "/dev/"))
		}
	}
	return nil
}
