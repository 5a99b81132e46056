package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Volume is one image file, as the controller promised it.
type Volume struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Node       string            `json:"node,omitempty"` // empty when every node reaches it
	Capacity   int64             `json:"capacity_bytes"`
	FsType     string            `json:"fs_type,omitempty"`
	Parameters map[string]string `json:"parameters,omitempty"`
	Context    map[string]string `json:"context"`
	Source     Source            `json:"source"`
	// Ready is false until the image has its content.
	Ready       bool                  `json:"ready"`
	Attachments map[string]Attachment `json:"attachments,omitempty"` // by node id
}

// Source is what a volume's content was copied from; Kind is empty, "snapshot" or "volume".
type Source struct {
	Kind string `json:"kind,omitempty"`
	ID   string `json:"id,omitempty"`
}

// Attachment lets one node stage a volume.
type Attachment struct {
	Token    string `json:"token"`
	Mode     string `json:"mode"`
	Block    bool   `json:"block"`
	ReadOnly bool   `json:"read_only"`
}

// Snapshot is a copy of a volume's image.
type Snapshot struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Volume  string    `json:"volume"`
	Node    string    `json:"node,omitempty"`
	Size    int64     `json:"size_bytes"`
	FsType  string    `json:"fs_type,omitempty"`
	Created time.Time `json:"created"`
	Ready   bool      `json:"ready"`
}

// Node is where a node role has run; its file tells the controller of it.
type Node struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	MaxVolumes int64  `json:"max_volumes"`
}

// Store keeps the records of one driver in one cluster, a file each.
type Store struct {
	directory string
}

const (
	volumesDir   = "volumes"
	snapshotsDir = "snapshots"
	nodesDir     = "nodes"
	stagedDir    = "staged"
)

// What may be part of a file's name; ids of others are unknown, never paths.
var safeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$`)

// OpenStore has the directory's folders in place.
func OpenStore(directory string) (*Store, error) {
	for _, name := range []string{volumesDir, snapshotsDir, nodesDir, stagedDir} {
		if err := os.MkdirAll(filepath.Join(directory, name), 0o750); err != nil {
			return nil, err
		}
	}
	return &Store{directory}, nil
}

// Locked runs work while no other process or call changes the store.
func (s *Store) Locked(work func() error) error {
	lock, err := os.OpenFile(filepath.Join(s.directory, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	for {
		if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return err
	}
	return work()
}

// Image is where the content of a volume or snapshot is.
func (s *Store) Image(folder, id string) string {
	return filepath.Join(s.directory, folder, id+".img")
}

func (s *Store) path(folder, id string) (string, bool) {
	return filepath.Join(s.directory, folder, id+".json"), safeName.MatchString(id)
}

// Volume returns nil when there is no such volume.
func (s *Store) Volume(id string) (*Volume, error) { return read[Volume](s, volumesDir, id) }

// Snapshot returns nil when there is no such snapshot.
func (s *Store) Snapshot(id string) (*Snapshot, error) { return read[Snapshot](s, snapshotsDir, id) }

// Node returns nil when no node role with this id has ever run.
func (s *Store) Node(id string) (*Node, error) { return read[Node](s, nodesDir, id) }

// Volumes returns all of them, by id.
func (s *Store) Volumes() ([]*Volume, error) { return list[Volume](s, volumesDir) }

// Snapshots returns all of them, by id.
func (s *Store) Snapshots() ([]*Snapshot, error) { return list[Snapshot](s, snapshotsDir) }

// Nodes returns all of them, by id.
func (s *Store) Nodes() ([]*Node, error) { return list[Node](s, nodesDir) }

// PutVolume writes a record whole or not at all; so do its siblings.
func (s *Store) PutVolume(v *Volume) error { return s.put(volumesDir, v.ID, v) }

// PutSnapshot writes a snapshot's record.
func (s *Store) PutSnapshot(v *Snapshot) error { return s.put(snapshotsDir, v.ID, v) }

// PutNode writes a node's record.
func (s *Store) PutNode(n Node) error { return s.put(nodesDir, n.ID, n) }

// Remove deletes an image, then its record; what is absent is no error.
func (s *Store) Remove(folder, id string) error {
	record, safe := s.path(folder, id)
	if !safe {
		return nil
	}
	image := s.Image(folder, id)
	for _, path := range []string{image + ".partial", image + ".formatting", image, record} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Used sums what volumes and snapshots of a node may grow to.
func (s *Store) Used(node string) (int64, error) {
	volumes, err := s.Volumes()
	if err != nil {
		return 0, err
	}
	snapshots, err := s.Snapshots()
	if err != nil {
		return 0, err
	}
	var used int64
	for _, volume := range volumes {
		if volume.Node == node {
			used += volume.Capacity
		}
	}
	for _, snapshot := range snapshots {
		if snapshot.Node == node {
			used += snapshot.Size
		}
	}
	return used, nil
}

// MaxVolumes returns a node's limit, which a file may change while the driver runs.
func (s *Store) MaxVolumes(otherwise int64) (int64, error) {
	content, err := os.ReadFile(filepath.Join(s.directory, "max-volumes"))
	if errors.Is(err, os.ErrNotExist) {
		return otherwise, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(content)), 10, 64)
}

func (s *Store) put(folder, id string, record any) error {
	path, safe := s.path(folder, id)
	if !safe {
		return fmt.Errorf("%q cannot be a file's name", id)
	}
	return writeJSON(path, record)
}

func writeJSON(path string, record any) error {
	content, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return err
	}
	partial, err := os.CreateTemp(filepath.Dir(path), ".partial-")
	if err != nil {
		return err
	}
	defer os.Remove(partial.Name())
	defer partial.Close()
	if _, err := partial.Write(append(content, '\n')); err != nil {
		return err
	}
	if err := partial.Sync(); err != nil {
		return err
	}
	return os.Rename(partial.Name(), path)
}

func read[T any](s *Store, folder, id string) (*T, error) {
	path, safe := s.path(folder, id)
	if !safe {
		return nil, nil
	}
	return readJSON[T](path)
}

func readJSON[T any](path string) (*T, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	record := new(T)
	if err := json.Unmarshal(content, record); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return record, nil
}

func list[T any](s *Store, folder string) ([]*T, error) {
	paths, err := filepath.Glob(filepath.Join(s.directory, folder, "*.json"))
	if err != nil {
		return nil, err
	}
	slices.Sort(paths)
	var records []*T
	for _, path := range paths {
		record, err := readJSON[T](path)
		if err != nil {
			return nil, err
		}
		if record != nil { // else deleted since
			records = append(records, record)
		}
	}
	return records, nil
}

// InFlight refuses a second call for something that has one running.
type InFlight struct {
	running sync.Map
}

// Claim returns an error, or the function that ends the claim.
func (f *InFlight) Claim(id string) (func(), error) {
	if _, taken := f.running.LoadOrStore(id, true); taken {
		return nil, aborted("an operation on %s is still running", id)
	}
	return func() { f.running.Delete(id) }, nil
}
