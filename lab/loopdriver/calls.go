package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Calls writes every call to calls/<role>.jsonl, for tests to read what arrived.
type Calls struct {
	file *os.File
}

// Call is one line of the file; secrets have their names and no values.
type Call struct {
	Time     time.Time       `json:"time"`
	Method   string          `json:"method"`
	Request  json.RawMessage `json:"request"`
	Response json.RawMessage `json:"response,omitempty"`
	Code     string          `json:"code"`
	Message  string          `json:"message,omitempty"`
	Seconds  float64         `json:"seconds"`
}

// OpenCalls continues the file of a role, which is "controller" or a node's name.
func OpenCalls(directory, role string) (*Calls, error) {
	if err := os.MkdirAll(directory, 0o750); err != nil {
		return nil, err
	}
	name := filepath.Join(directory, role+".jsonl")
	file, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	return &Calls{file}, err
}

// Intercept writes the line when the call is answered.
func (c *Calls) Intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	start := time.Now()
	answer, err := next(ctx, request)
	method := path.Base(info.FullMethod)
	if method == "Probe" || method == "GetPluginInfo" || strings.HasSuffix(method, "Capabilities") && method != "ValidateVolumeCapabilities" {
		return answer, err
	}
	call := Call{
		Time: start.UTC(), Method: method, Request: encode(request), Code: status.Code(err).String(),
		Seconds: time.Since(start).Seconds(),
	}
	if err != nil {
		call.Message = status.Convert(err).Message()
	} else {
		call.Response = encode(answer)
	}
	line, failure := json.Marshal(call)
	if failure == nil {
		_, failure = c.file.Write(append(line, '\n')) // one write, so that lines never mix
	}
	if failure != nil {
		log.Printf("%s is not noted: %v", method, failure)
	}
	log.Printf("%s %s: %s %s", method, volumeOf(request), call.Code, call.Message)
	return answer, err
}

func volumeOf(request any) string {
	if named, has := request.(interface{ GetVolumeId() string }); has {
		return named.GetVolumeId()
	}
	return ""
}

func encode(value any) json.RawMessage {
	message, is := value.(proto.Message)
	if !is || !message.ProtoReflect().IsValid() {
		return nil
	}
	stripped := proto.Clone(message)
	strip(stripped.ProtoReflect())
	encoded, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(stripped)
	if err != nil {
		log.Printf("cannot encode: %v", err)
	}
	return encoded
}

// strip hides the values of maps that the specification marks as secret.
func strip(message protoreflect.Message) {
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		options, _ := field.Options().(*descriptorpb.FieldOptions)
		secret, _ := proto.GetExtension(options, csi.E_CsiSecret).(bool)
		if secret && field.IsMap() {
			hide(value.Map())
		}
		return true
	})
}

func hide(secrets protoreflect.Map) {
	var keys []protoreflect.MapKey
	secrets.Range(func(key protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, key)
		return true
	})
	for _, key := range keys {
		secrets.Set(key, protoreflect.ValueOfString("***"))
	}
}
