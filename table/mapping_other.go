//go:build unix && !linux

package table

import (
	"errors"
	"syscall"
)

// mapMemory maps bytes of zeroed memory that costs nothing until it is touched.
func mapMemory(bytes int) ([]byte, error) {
	return syscall.Mmap(-1, 0, bytes, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
}

func populate([]byte) error { return errors.ErrUnsupported }

func unmapMemory(mem []byte) error { return syscall.Munmap(mem) }
