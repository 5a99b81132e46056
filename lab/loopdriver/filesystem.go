package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const defaultFsType = "ext4"

// minimumSizes are what mkfs of each type agrees to.
var minimumSizes = map[string]int64{"": 4 << 20, "ext4": 4 << 20, "xfs": 300 << 20}

// probeFilesystem returns a device's file system and its size; the type is empty without one.
func probeFilesystem(device string) (string, int64, error) {
	file, err := os.Open(device)
	if err != nil {
		return "", 0, err
	}
	defer file.Close()
	head := make([]byte, 4096)
	if _, err := file.ReadAt(head, 0); err != nil {
		return "", 0, err
	}
	little, big := binary.LittleEndian, binary.BigEndian
	if ext := head[1024:]; little.Uint16(ext[56:]) == 0xEF53 {
		blocks := int64(little.Uint32(ext[4:])) | int64(little.Uint32(ext[0x150:]))<<32
		return "ext4", blocks << (10 + little.Uint32(ext[24:])), nil
	}
	if bytes.HasPrefix(head, []byte("XFSB")) {
		return "xfs", int64(big.Uint64(head[8:])) * int64(big.Uint32(head[4:])), nil
	}
	return "", 0, nil
}

// isBlank tells whether nothing was ever written to an image.
func isBlank(image string) (bool, error) {
	file, err := os.Open(image)
	if err != nil {
		return false, err
	}
	defer file.Close()
	_, err = unix.Seek(int(file.Fd()), 0, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return true, nil
	}
	return false, err
}

// ensureFormatted makes a file system on a blank image, and only there. A marker tells
// one that a crash left half made from data that must not be touched.
func ensureFormatted(image, device, fsType string) (string, error) {
	marker := image + ".formatting"
	if _, err := os.Stat(marker); errors.Is(err, os.ErrNotExist) {
		found, _, err := probeFilesystem(device)
		if err != nil {
			return "", err
		}
		if found != "" {
			if fsType != "" && fsType != found {
				return "", precondition("the volume has a file system %s and not %s", found, fsType)
			}
			return found, nil
		}
		blank, err := isBlank(image)
		if err != nil {
			return "", err
		}
		if !blank {
			return "", precondition("the volume has data that is no known file system")
		}
		if err := os.WriteFile(marker, nil, 0o600); err != nil {
			return "", err
		}
	}
	if fsType == "" {
		fsType = defaultFsType
	}
	force := map[string]string{"ext4": "-F", "xfs": "-f"}[fsType]
	if err := command("mkfs."+fsType, force, "-q", device); err != nil {
		return "", err
	}
	return fsType, os.Remove(marker)
}

// ensureFilledOffline grows a file system that has to be grown before it is mounted.
func ensureFilledOffline(device string) error {
	fsType, full, err := inspect(device)
	if err != nil || full || fsType != "ext4" {
		return err
	}
	// It wants to have been checked. The exit code 1 says that it mended something.
	err = command("e2fsck", "-f", "-p", device)
	var ended *exec.ExitError
	if err != nil && !(errors.As(err, &ended) && ended.ExitCode() == 1) {
		return err
	}
	return command("resize2fs", device)
}

// ensureFilled grows a mounted file system to its device.
func ensureFilled(device, mountpoint string) error {
	fsType, full, err := inspect(device)
	if err != nil || full {
		return err
	}
	switch fsType {
	case "ext4":
		if allowed, err := hasCapability(unix.CAP_SYS_RESOURCE); err != nil || !allowed {
			return errors.Join(precondition("without CAP_SYS_RESOURCE an ext4 grows only when it is not mounted"), err)
		}
		return command("resize2fs", device)
	case "xfs":
		return command("xfs_growfs", "-d", mountpoint)
	}
	return fmt.Errorf("%s has no file system that can grow", device)
}

// inspect tells a device's file system, and whether it fills the device.
func inspect(device string) (fsType string, full bool, err error) {
	fsType, has, err := probeFilesystem(device)
	if err != nil {
		return "", false, err
	}
	size, err := deviceSize(device)
	return fsType, has >= size, err
}

func hasCapability(number int) (bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return false, err
	}
	return sets[number/32].Effective&(1<<(number%32)) != 0, nil
}

func deviceSize(device string) (int64, error) {
	file, err := os.Open(device)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	return file.Seek(0, 2)
}

func command(name string, arguments ...string) error {
	output, err := exec.Command(name, arguments...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(arguments, " "), err, bytes.TrimSpace(output))
	}
	return nil
}

var mountBits = map[string]uintptr{
	"defaults": 0, "rw": 0, "ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV,
	"noexec": unix.MS_NOEXEC, "sync": unix.MS_SYNCHRONOUS, "dirsync": unix.MS_DIRSYNC,
	"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
	"strictatime": unix.MS_STRICTATIME, "lazytime": unix.MS_LAZYTIME,
}

func mountFilesystem(device, target, fsType string, options []string) error {
	var bits uintptr
	var data []string
	for _, option := range options {
		if bit, known := mountBits[option]; known {
			bits |= bit
		} else {
			data = append(data, option)
		}
	}
	if fsType == "xfs" {
		// A clone has the UUID of its source, and both may be mounted on one machine.
		data = append(data, "nouuid")
	}
	err := unix.Mount(device, target, fsType, bits, strings.Join(data, ","))
	if errors.Is(err, unix.EINVAL) && len(options) > 0 {
		return invalid("mount %s with options %s: %v", fsType, strings.Join(options, ","), err)
	}
	if err != nil {
		return fmt.Errorf("mount %s on %s: %w", device, target, err)
	}
	return nil
}

// bind makes source appear at target; a remount must repeat the flags that are to stay.
func bind(source, target string, readOnly bool) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", source, target, err)
	}
	if !readOnly {
		return nil
	}
	var status unix.Statfs_t
	err := unix.Statfs(target, &status)
	if err == nil {
		kept := uintptr(status.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME)
		if status.Flags&unix.ST_RELATIME != 0 {
			kept |= unix.MS_RELATIME
		}
		err = unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|kept, "")
	}
	if err != nil {
		return errors.Join(fmt.Errorf("read-only %s: %w", target, err), unix.Unmount(target, 0))
	}
	return nil
}

// unmountAll leaves nothing mounted at a path.
func unmountAll(path string) error {
	for {
		mounted, err := isMounted(path)
		if err != nil || !mounted {
			return err
		}
		if err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}

// isMounted tells whether something is mounted exactly there.
func isMounted(path string) (bool, error) {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 4 && unescape.Replace(fields[4]) == real {
			return true, nil
		}
	}
	return false, nil
}

var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// ensureGroup gives a tree to a group, the way kubelet does; a root that is right ends it early.
func ensureGroup(root string, group int) error {
	var status unix.Stat_t
	if err := unix.Lstat(root, &status); err != nil {
		return err
	}
	if int(status.Gid) == group && status.Mode&(unix.S_ISGID|0o070) == unix.S_ISGID|0o070 {
		return nil
	}
	var last error
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		return giveToGroup(path, entry.Type(), group)
	})
	if err == nil {
		last = giveToGroup(root, os.ModeDir, group) // last: it tells that all below is done
	}
	return errors.Join(err, last)
}

func giveToGroup(path string, kind os.FileMode, group int) error {
	if err := os.Lchown(path, -1, group); err != nil {
		return err
	}
	var status unix.Stat_t
	if kind&os.ModeSymlink != 0 {
		return nil
	}
	if err := unix.Lstat(path, &status); err != nil {
		return err
	}
	mode := status.Mode&0o7777 | 0o660
	if kind.IsDir() {
		mode |= 0o110 | unix.S_ISGID
	}
	return unix.Chmod(path, mode)
}
