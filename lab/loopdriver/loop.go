package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	loopControl  = "/dev/loop-control"
	loopAttempts = 32
	goneTimeout  = 5 * time.Second
)

// Loop is a loop device that stands on an image.
type Loop struct {
	Device string
	Owner  string // the node that attached it
}

// ownerTag is what the device keeps of its owner: the kernel has 64 bytes for it.
func ownerTag(node string) string {
	if len(node) > 63 {
		return node[:63]
	}
	return node
}

// findLoops asks the kernel, which is right also after a crash.
func findLoops(image string) ([]Loop, error) {
	wanted, err := os.Stat(image)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	backed, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var found []Loop
	for _, path := range backed {
		// The path is as some other mount namespace sees it; the name is the same in all.
		name, err := os.ReadFile(path)
		if err != nil || filepath.Base(strings.TrimSpace(string(name))) != filepath.Base(image) {
			continue
		}
		device := "/dev/" + strings.Split(path, "/")[3]
		info, err := loopInfo(device)
		if errors.Is(err, unix.ENXIO) { // gone since
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", device, err)
		}
		status := wanted.Sys().(*syscall.Stat_t)
		if info.Inode == status.Ino && info.Device == status.Dev {
			owner, _, _ := bytes.Cut(info.File_name[:], []byte{0})
			found = append(found, Loop{device, string(owner)})
		}
	}
	return found, nil
}

// findOwnLoop returns the empty text when the node has none on the image.
func findOwnLoop(image, node string) (string, error) {
	loops, err := findLoops(image)
	for _, loop := range loops {
		if loop.Owner == ownerTag(node) {
			return loop.Device, err
		}
	}
	return "", err
}

func loopInfo(device string) (*unix.LoopInfo64, error) {
	file, err := os.Open(device)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return unix.IoctlLoopGetStatus64(int(file.Fd()))
}

// attachLoop returns the open device. With autoclear it goes with its last user, which
// is whoever holds the file and then the mount; so nothing of it survives a crash.
func attachLoop(image, node string, readOnly, autoclear bool) (*os.File, error) {
	access, flags := os.O_RDWR, uint32(0)
	if readOnly {
		access, flags = os.O_RDONLY, unix.LO_FLAGS_READ_ONLY
	}
	if autoclear {
		flags |= unix.LO_FLAGS_AUTOCLEAR
	}
	backing, err := os.OpenFile(image, access, 0)
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	control, err := os.OpenFile(loopControl, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for range loopAttempts {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", loopControl, err)
		}
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", number), access, 0)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(backing.Fd()), Info: unix.LoopInfo64{Flags: flags}}
		copy(config.Info.File_name[:63], ownerTag(node))
		if err = unix.IoctlLoopConfigure(int(device.Fd()), &config); err == nil {
			return device, nil
		}
		device.Close()
		if !errors.Is(err, unix.EBUSY) { // else another process was faster
			return nil, fmt.Errorf("%s: %w", device.Name(), err)
		}
	}
	return nil, aborted("every free loop device is taken by others at once")
}

// detachLoop ends a device and waits until the kernel let go of the image.
func detachLoop(image, node string) error {
	deadline := time.Now().Add(goneTimeout)
	for {
		device, err := findOwnLoop(image, node)
		if err != nil || device == "" {
			return err
		}
		if time.Now().After(deadline) {
			return aborted("%s on %s is still in use", device, image)
		}
		if err := clearLoop(device); err != nil {
			return fmt.Errorf("%s: %w", device, err)
		}
		// The kernel tells nobody when the last user of a device goes.
		time.Sleep(20 * time.Millisecond)
	}
}

func clearLoop(device string) error {
	file, err := os.Open(device)
	if err != nil {
		return err
	}
	defer file.Close()
	// A device in use is let go by its last user.
	err = unix.IoctlSetInt(int(file.Fd()), unix.LOOP_CLR_FD, 0)
	if errors.Is(err, unix.ENXIO) {
		return nil
	}
	return err
}

// growLoop has the device as large as its image.
func growLoop(device string) error {
	file, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	return unix.IoctlSetInt(int(file.Fd()), unix.LOOP_SET_CAPACITY, 0)
}
