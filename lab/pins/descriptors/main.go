// Command descriptors writes the official FileDescriptorSet of CSI and of the
// kubelet's plugin registration, as published in their Go modules, to standard
// output, so that this project's own protos can be compared with them.
package main

import (
	"log"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

func main() {
	set := &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(csi.File_csi_proto),
		protodesc.ToFileDescriptorProto((&registration.PluginInfo{}).ProtoReflect().Descriptor().ParentFile()),
	}}
	encoded, err := proto.Marshal(set)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := os.Stdout.Write(encoded); err != nil {
		log.Fatal(err)
	}
}
