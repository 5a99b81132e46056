package main

import (
	"cmp"
	"context"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// places are the nodes that a volume may be on, best first; one empty name without topology.
func (c *Controller) places(source Source, wish *csi.TopologyRequirement) ([]string, error) {
	if !c.options.Topology {
		return []string{""}, nil
	}
	places, err := c.wished(wish)
	if err != nil || source.Kind == "" {
		return places, err
	}
	// Data is copied where it is.
	_, _, node, err := c.source(source)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(places, node) {
		return nil, exhausted("the source is on node %s, which is not asked for", node)
	}
	return []string{node}, nil
}

func (c *Controller) wished(wish *csi.TopologyRequirement) ([]string, error) {
	nodes, err := c.store.Nodes()
	if err != nil {
		return nil, err
	}
	var known []string
	free := map[string]int64{}
	for _, node := range nodes {
		used, err := c.store.Used(node.Name)
		if err != nil {
			return nil, err
		}
		known = append(known, node.Name)
		free[node.Name] = c.options.Capacity - used
	}
	if len(wish.GetPreferred())+len(wish.GetRequisite()) == 0 {
		slices.SortStableFunc(known, func(a, b string) int { return cmp.Compare(free[b], free[a]) })
		return known, nil
	}
	var places []string
	for _, topology := range slices.Concat(wish.GetPreferred(), wish.GetRequisite()) {
		name, has := topology.GetSegments()[c.options.key("node")]
		if has && slices.Contains(known, name) && !slices.Contains(places, name) {
			places = append(places, name)
		}
	}
	return places, nil
}

func (c *Controller) withRoom(places []string, size int64) (string, error) {
	for _, place := range places {
		used, err := c.store.Used(place)
		if err != nil {
			return "", err
		}
		if size <= c.options.Capacity-used {
			return place, nil
		}
	}
	if len(places) == 0 {
		return "", exhausted("no node that is asked for has the driver")
	}
	return "", exhausted("none of the nodes %q has %d bytes", places, size)
}

func (c *Controller) topologyOf(node string) []*csi.Topology {
	if !c.options.Topology {
		return nil
	}
	return []*csi.Topology{{Segments: map[string]string{c.options.key("node"): node}}}
}

// GetCapacity sums the free space of the nodes in question.
func (c *Controller) GetCapacity(_ context.Context, request *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	if err := checkParameters(request.GetParameters()); err != nil {
		return nil, err
	}
	answer := &csi.GetCapacityResponse{}
	for _, capability := range request.GetVolumeCapabilities() {
		if c.options.unsupported(capability) != "" {
			return answer, nil
		}
	}
	var wish *csi.TopologyRequirement
	if asked := request.GetAccessibleTopology(); asked != nil {
		wish = &csi.TopologyRequirement{Requisite: []*csi.Topology{asked}}
	}
	places, err := c.places(Source{}, wish)
	if err != nil {
		return nil, failed(err)
	}
	var largest int64
	for _, place := range places {
		used, err := c.store.Used(place)
		if err != nil {
			return nil, failed(err)
		}
		free := max(0, c.options.Capacity-used)
		answer.AvailableCapacity += free
		largest = max(largest, free)
	}
	answer.MaximumVolumeSize = wrapperspb.Int64(largest)
	answer.MinimumVolumeSize = wrapperspb.Int64(minimumSizes[defaultFsType])
	return answer, nil
}
