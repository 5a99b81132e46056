package main

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// How often a copy of a file that is being written to starts again.
const copyAttempts = 5

// createImage makes a sparse file, or leaves the one that is there.
func createImage(path string, size int64) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	return growFile(file, size)
}

// growImage has a file at least as large as wanted; it never shrinks one.
func growImage(path string, size int64) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	return growFile(file, size)
}

func growFile(file *os.File, size int64) error {
	status, err := file.Stat()
	if err != nil {
		return err
	}
	if status.Size() >= size {
		return nil
	}
	if err := file.Truncate(size); err != nil {
		return err
	}
	return file.Sync()
}

// copyImage makes a copy that is the source at one moment; target appears whole or not at all.
func copyImage(source, target string, size int64) error {
	partial := target + ".partial"
	for range copyAttempts {
		before, err := changed(source)
		if err != nil {
			return err
		}
		atomic, err := copyOnce(source, partial)
		if err != nil {
			return err
		}
		after, err := changed(source)
		if err != nil {
			return err
		}
		if atomic || before.Equal(after) {
			if err := growImage(partial, size); err != nil {
				return err
			}
			return os.Rename(partial, target)
		}
	}
	return aborted("%s is being written to faster than it can be copied", source)
}

func changed(path string) (time.Time, error) {
	status, err := os.Stat(path)
	if err != nil {
		return time.Time{}, err
	}
	return status.ModTime(), nil
}

// copyOnce tells whether the file system shared the data, which happens at one moment.
func copyOnce(source, target string) (bool, error) {
	from, err := os.Open(source)
	if err != nil {
		return false, err
	}
	defer from.Close()
	to, err := os.OpenFile(target, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return false, err
	}
	defer to.Close()
	if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil {
		return true, to.Sync()
	}
	if err := copySparsely(from, to); err != nil {
		return false, err
	}
	return false, to.Sync()
}

func copySparsely(from, to *os.File) error {
	status, err := from.Stat()
	if err != nil {
		return err
	}
	for end := int64(0); end < status.Size(); {
		start, err := unix.Seek(int(from.Fd()), end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // nothing but a hole to the end
			break
		}
		if err != nil {
			return err
		}
		if end, err = unix.Seek(int(from.Fd()), start, unix.SEEK_HOLE); err != nil {
			return err
		}
		if _, err := to.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.Copy(to, io.NewSectionReader(from, start, end-start)); err != nil {
			return err
		}
	}
	return to.Truncate(status.Size())
}
