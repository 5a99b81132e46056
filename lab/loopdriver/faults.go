package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Fault is one value of faults.json in the state directory, whose keys are methods.
// The file is read at every call, so a test may change it at any time.
type Fault struct {
	Node         string  `json:"node,omitempty"`   // only this node, or "controller"; all when empty
	Volume       string  `json:"volume,omitempty"` // only this volume id; all when empty
	DelaySeconds float64 `json:"delay_seconds,omitempty"`
	// Code is a status's name as in the specification, such as UNAVAILABLE.
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
	// After does the work first and then fails, as when the answer is lost.
	After bool `json:"after,omitempty"`
	// Exit ends the process instead of answering.
	Exit bool `json:"exit,omitempty"`
	// Times counts down in the file to 0, where the fault ends; without it there is no end.
	Times *int `json:"times,omitempty"`
}

// Faults makes calls slow, fail or never end well.
type Faults struct {
	store *Store
	node  string
}

// Intercept applies the fault of a method, when it has one.
func (f *Faults) Intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	fault, err := f.take(path.Base(info.FullMethod), request)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if fault == nil {
		return next(ctx, request)
	}
	time.Sleep(time.Duration(fault.DelaySeconds * float64(time.Second)))
	var answer any
	if fault.After || (fault.Code == "" && !fault.Exit) {
		if answer, err = next(ctx, request); err != nil {
			return nil, err
		}
	}
	if fault.Exit {
		log.Printf("ending in %s, as faults.json says", info.FullMethod)
		os.Exit(9)
	}
	if fault.Code == "" {
		return answer, nil
	}
	var code codes.Code
	if err := code.UnmarshalJSON([]byte(`"` + fault.Code + `"`)); err != nil {
		return nil, status.Error(codes.Internal, "faults.json: "+err.Error())
	}
	message := fault.Message
	if message == "" {
		message = "as faults.json says"
	}
	return nil, status.Error(code, message)
}

// take returns the fault that this call has to suffer, and counts it.
func (f *Faults) take(method string, request any) (*Fault, error) {
	file := filepath.Join(f.store.directory, "faults.json")
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var taken *Fault
	err := f.store.Locked(func() error {
		content, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		faults := map[string]*Fault{}
		if err := json.Unmarshal(content, &faults); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		fault := faults[method]
		if fault == nil || !f.concerns(fault, request) {
			return nil
		}
		if fault.Times != nil {
			if *fault.Times <= 0 {
				return nil
			}
			*fault.Times--
			if err := writeJSON(file, faults); err != nil {
				return err
			}
		}
		taken = fault
		return nil
	})
	return taken, err
}

func (f *Faults) concerns(fault *Fault, request any) bool {
	named, has := request.(interface{ GetVolumeId() string })
	return (fault.Node == "" || fault.Node == f.node) &&
		(fault.Volume == "" || (has && named.GetVolumeId() == fault.Volume))
}

// demandSecrets refuses a call that must carry the secret and does not.
func (o *Options) demandSecrets(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	holder, has := request.(interface{ GetSecrets() map[string]string })
	if o.Secret == "" || !has || !contains(o.SecretCalls, path.Base(info.FullMethod)) {
		return next(ctx, request)
	}
	key, value, _ := strings.Cut(o.Secret, "=")
	given, there := holder.GetSecrets()[key]
	if !there {
		return nil, invalid("secret %s is missing", key)
	}
	if given != value {
		return nil, status.Errorf(codes.Unauthenticated, "secret %s is wrong", key)
	}
	return next(ctx, request)
}

func contains(listed, wanted string) bool {
	for item := range strings.SplitSeq(listed, ",") {
		if strings.TrimSpace(item) == wanted {
			return true
		}
	}
	return false
}
