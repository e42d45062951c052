package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Place is the directory of a run, under placesDir, with the disks of the replicas. A lock on a file in it is held as long as the run
// lives, so that another run can tell what is left behind from what is in use.
type Place struct {
	dir  string
	lock *os.File
}

const (
	placesDir   = "/run/hermesd-chaos"
	netnsDir    = "/run/netns" // of ip-netns(8)
	namesPrefix = "hermesd-chaos-"
	diskMB      = 24
)

// exists reports whether there is a namespace of a name.
func exists(ns string) bool {
	_, err := os.Stat(filepath.Join(netnsDir, ns))
	return err == nil
}

// NewPlace makes the place of this run. Its name is in the names of the namespaces.
func NewPlace() (*Place, error) {
	p := &Place{dir: filepath.Join(placesDir, strconv.Itoa(os.Getpid()))}
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return nil, err
	}
	var held bool
	var err error
	if p.lock, held, err = lockPlace(p.dir); err == nil && held {
		err = fmt.Errorf("%s is in use by another process", p.dir)
	}
	return p, err
}

// lockPlace takes the lock of a place; held: somebody has it.
func lockPlace(dir string) (f *os.File, held bool, err error) {
	if f, err = os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		return nil, false, err
	}
	switch err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err {
	case nil:
		return f, false, nil
	case syscall.EWOULDBLOCK:
		f.Close()
		return nil, true, nil
	}
	f.Close()
	return nil, false, err
}

// network is the network of the place.
func (p *Place) network() Network {
	return Network{Prefix: namesPrefix + filepath.Base(p.dir), Replicas: maxReplicas + 1}
}

// disk is the directory of a replica's disk.
func (p *Place) disk(number int) string { return filepath.Join(p.dir, "disk"+strconv.Itoa(number)) }

// mountDisks gives each replica a disk of diskMB, in memory.
func (p *Place) mountDisks() error {
	for number := range maxReplicas + 1 {
		dir := p.disk(number + 1)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", diskMB)); err != nil {
			return fmt.Errorf("mount a tmpfs of %d MB on %s: %w", diskMB, dir, err)
		}
	}
	return nil
}

// Remove ends what runs in the namespaces, and removes them, the disks and the place.
func (p *Place) Remove() error {
	n := p.network()
	for _, ns := range n.namespaces() {
		if exists(ns) {
			endAll(ns)
		}
	}
	errs := []error{n.Remove()}
	for number := range maxReplicas + 1 {
		for {
			err := syscall.Unmount(p.disk(number+1), syscall.MNT_DETACH)
			if err != nil {
				break // EINVAL, ENOENT: nothing is mounted there (any more)
			}
		}
	}
	errs = append(errs, os.RemoveAll(p.dir))
	p.lock.Close()
	return errors.Join(errs...)
}

// endAll kills the processes of a namespace, by their ids, and waits until they are gone.
func endAll(ns string) {
	const limit = 10 * time.Second
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		output, err := exec.Command("ip", "netns", "pids", ns).Output()
		pids := strings.Fields(string(output))
		if err != nil || len(pids) == 0 {
			return
		}
		for _, text := range pids {
			if pid, err := strconv.Atoi(text); err == nil && pid > 1 && pid != os.Getpid() {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}

// Sweep removes what runs that were killed have left.
func Sweep() error {
	dirs, err := filepath.Glob(filepath.Join(placesDir, "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		lock, held, err := lockPlace(dir)
		if err != nil || held {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintf(os.Stderr, "removing what an earlier run has left in %s\n", dir)
		errs = append(errs, (&Place{dir, lock}).Remove())
	}
	return errors.Join(errs...)
}
