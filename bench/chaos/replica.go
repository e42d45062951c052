package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"hermesd/bench/child"
	"hermesd/replication/views"
)

// Replica is a place in the group and the process that fills it, if one runs. Its methods are for one goroutine.
type Replica struct {
	Number  int
	Witness bool
	args    []string // of hermesd
	binary  string
	network Network
	disk    string
	logPath string

	process *process
	// forgive: that the process ends by itself is no fault of its, for the disk is full.
	forgive bool
}

// process is one that was started.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}

	mu       sync.Mutex
	expected bool // it has been told to end
	err      error
}

// stopLimit is for a replica to end after SIGTERM.
const stopLimit = 15 * time.Second

// replicaArgs are the arguments of a replica of a group.
func replicaArgs(s Shape, number int, isWitness bool, group string, dataDir string) []string {
	args := []string{"--id", strconv.Itoa(number), "--group", group, "--data-dir", dataDir}
	if s.Tuned {
		t := views.TunedTiming
		args = append(args, "--heartbeat", t.Heartbeat.String(), "--lease", t.Lease.String(), "--suspect-after", t.SuspectAfter.String(),
			"--election-timeout", t.Election.String(), "--unreachable-after", t.Unreachable.String())
	}
	if isWitness {
		return append(args, "--witness")
	}
	return append(args, "-l", clientNet+strconv.Itoa(number), "-p", strconv.Itoa(clientPort), "-t", "2", "-m", "64")
}

// groupText is --group with the numbers given.
func groupText(numbers int) string {
	var all []string
	for i := 1; i <= numbers; i++ {
		all = append(all, fmt.Sprintf("%d=%s", i, replAddr(i)))
	}
	return strings.Join(all, ",")
}

// Start starts the process.
func (r *Replica) Start() error {
	log, err := os.OpenFile(r.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	command := r.network.inside(r.Number, append([]string{r.binary}, r.args...)...)
	p := &process{cmd: exec.Command(command[0], command[1:]...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := child.Start(p.cmd, nil, p.end); err != nil {
		return err
	}
	r.process = p
	return nil
}

func (p *process) end(err error) {
	p.mu.Lock()
	p.err = err
	p.mu.Unlock()
	close(p.ended)
}

func (p *process) expect() {
	p.mu.Lock()
	p.expected = true
	p.mu.Unlock()
}

// Running reports whether the process has not ended.
func (r *Replica) Running() bool {
	if r.process == nil {
		return false
	}
	select {
	case <-r.process.ended:
		return false
	default:
		return true
	}
}

// Kill ends the process by SIGKILL.
func (r *Replica) Kill() {
	if r.Running() {
		r.process.expect()
		_ = r.process.cmd.Process.Kill() // fails only where it has ended
		<-r.process.ended
	}
}

// Stop ends the process by SIGTERM. That it ends with another status than 0, or does not end, is an error.
func (r *Replica) Stop() error {
	if !r.Running() {
		return nil
	}
	r.process.expect()
	if err := r.process.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-r.process.ended:
	case <-time.After(stopLimit):
		// What its goroutines wait for is in the log after this.
		_ = r.process.cmd.Process.Signal(syscall.SIGQUIT)
		select {
		case <-r.process.ended:
		case <-time.After(time.Second):
			r.Kill()
		}
		return fmt.Errorf("replica %d has not ended within %v of SIGTERM (its goroutines are in %s)", r.Number, stopLimit, r.logPath)
	}
	if r.process.err != nil {
		return fmt.Errorf("replica %d ended with %w after SIGTERM: %s", r.Number, r.process.err, r.logTail())
	}
	return nil
}

// Signal sends a signal to the process, if it runs.
func (r *Replica) Signal(sig syscall.Signal) {
	if r.Running() {
		_ = r.process.cmd.Process.Signal(sig) // fails only where it has ended
	}
}

// Fallen is an error if the process has ended though nobody has told it to.
func (r *Replica) Fallen() error {
	if r.process == nil || r.Running() || r.forgive {
		return nil
	}
	r.process.mu.Lock()
	defer r.process.mu.Unlock()
	if r.process.expected {
		return nil
	}
	return fmt.Errorf("replica %d has ended by itself: %v: %s", r.Number, r.process.err, r.logTail())
}

// logTail is the end of the log.
func (r *Replica) logTail() string {
	const tail = 1500
	text, err := os.ReadFile(r.logPath)
	if err != nil {
		return err.Error()
	}
	if i := bytes.Index(text, []byte("panic:")); i >= 0 {
		return string(text[i:min(len(text), i+2*tail)])
	}
	return string(bytes.TrimSpace(text[max(0, len(text)-tail):]))
}

// Wipe empties the disk.
func (r *Replica) Wipe() error {
	entries, err := os.ReadDir(r.disk)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(r.disk, e.Name())))
	}
	return err
}

const fillName = "fill"

// FillDisk writes until nothing more can be.
func (r *Replica) FillDisk() error {
	f, err := os.Create(filepath.Join(r.disk, fillName))
	if err != nil {
		return err
	}
	defer f.Close()
	for block := make([]byte, 1<<16); len(block) > 0; {
		_, err := f.Write(block)
		switch {
		case errors.Is(err, syscall.ENOSPC):
			block = block[:len(block)/2] // up to the last byte
		case err != nil:
			return err
		}
	}
	return nil
}

// EmptyDisk removes what FillDisk has written.
func (r *Replica) EmptyDisk() error { return os.Remove(filepath.Join(r.disk, fillName)) }
