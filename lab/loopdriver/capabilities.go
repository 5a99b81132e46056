package main

import (
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

type mode = csi.VolumeCapability_AccessMode_Mode

const (
	singleWriter     = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	singleReader     = csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
	multiReader      = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	multiWriter      = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	oneNodeOneWriter = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	oneNodeWriters   = csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
)

func readsOnly(m mode) bool { return m == singleReader || m == multiReader }
func manyNodes(m mode) bool { return m == multiReader || m == multiWriter }

// oneTarget tells whether a mode lets a volume be published at one path only.
func (o *Options) oneTarget(m mode) bool {
	return m == oneNodeOneWriter || m == singleWriter && o.MultiWriter
}

// wellFormed refuses what misses a required part, before anything is looked up.
func wellFormed(capability *csi.VolumeCapability) error {
	switch {
	case capability == nil:
		return invalid("volume_capability is missing")
	case capability.GetMount() == nil && capability.GetBlock() == nil:
		return invalid("access_type is missing")
	case capability.GetAccessMode().GetMode() == csi.VolumeCapability_AccessMode_UNKNOWN:
		return invalid("access_mode is missing")
	}
	return nil
}

// unsupported returns why a volume cannot have a capability, or the empty text.
func (o *Options) unsupported(capability *csi.VolumeCapability) string {
	m := capability.GetAccessMode().GetMode()
	known := []mode{singleWriter, singleReader}
	if o.MultiWriter {
		known = append(known, oneNodeOneWriter, oneNodeWriters)
	}
	if !o.Topology {
		known = append(known, multiReader)
		if capability.GetBlock() != nil {
			known = append(known, multiWriter)
		}
	}
	mount := capability.GetMount()
	_, makes := minimumSizes[mount.GetFsType()]
	switch {
	case !slices.Contains(known, m):
		return "access mode " + m.String() + " is not supported for this kind of volume"
	case !makes:
		return "file system " + mount.GetFsType() + " is not supported"
	case mount.GetVolumeMountGroup() != "" && !o.MountGroup:
		return "volume_mount_group is not supported"
	}
	return ""
}

func (o *Options) checkAll(capabilities []*csi.VolumeCapability) error {
	if len(capabilities) == 0 {
		return invalid("volume_capabilities are missing")
	}
	for _, capability := range capabilities {
		if err := wellFormed(capability); err != nil {
			return err
		}
	}
	for _, capability := range capabilities {
		if why := o.unsupported(capability); why != "" {
			return invalid("%s", why)
		}
	}
	return nil
}

// fsTypeOf returns the file system that all capabilities agree on; empty leaves the choice.
func fsTypeOf(capabilities []*csi.VolumeCapability) (string, error) {
	var chosen string
	for _, capability := range capabilities {
		wanted := capability.GetMount().GetFsType()
		if wanted == "" || wanted == chosen {
			continue
		}
		if chosen != "" {
			return "", invalid("file systems %s and %s exclude each other", chosen, wanted)
		}
		chosen = wanted
	}
	return chosen, nil
}

// checkParameters refuses what the driver does not know, but for the sidecars' own.
func checkParameters(given map[string]string) error {
	for key := range given {
		if !strings.HasPrefix(key, "csi.storage.k8s.io/") {
			return invalid("parameter %s is not known", key)
		}
	}
	return nil
}
