package livetest

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hermesd/bench/child"
)

// Limit bounds every wait for a process: to serve, to say something, to end. It is long since nothing depends on it but
// how soon a failure is noticed.
const Limit = 30 * time.Second

// Process is a program that runs, or has ended. Its output, both streams, is kept.
type Process struct {
	cmd    *exec.Cmd
	stdout output
	stderr output
	ended  chan struct{}
	status int // valid once ended is closed
}

// Start starts a program. It is killed at the end of the test if it runs then, and when the test's process dies.
func Start(t testing.TB, path string, args ...string) *Process {
	t.Helper()
	p, err := start(path, args)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

func start(path string, args []string) (*Process, error) {
	p := &Process{cmd: exec.Command(path, args...), ended: make(chan struct{})}
	p.stdout.changed, p.stderr.changed = make(chan struct{}), make(chan struct{})
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	return p, child.Start(p.cmd, nil, func(err error) {
		p.status = status(err)
		close(p.ended)
	})
}

// status is the exit status of a process, or, if a signal has ended it, 128 and the signal's number, as shells say it.
func status(err error) int {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return 0
	}
	if ws := exit.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return exit.ExitCode()
}

func (p *Process) kill() {
	_ = p.cmd.Process.Kill() // fails only where it has ended
	<-p.ended
}

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal.
func (p *Process) Signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("%v to %s: %v", sig, p, err)
	}
}

// Wait waits until the process ends, and returns its exit status, 128 and a signal's number if a signal has ended it.
func (p *Process) Wait(t testing.TB) int {
	t.Helper()
	select {
	case <-p.ended:
		return p.status
	case <-time.After(Limit):
		t.Fatalf("%s has not ended within %v:\n%s", p, Limit, p.Output())
		return 0
	}
}

// Stop ends the process by SIGTERM. That it ends with another status than 0 fails the test.
func (p *Process) Stop(t testing.TB) {
	t.Helper()
	p.Signal(t, syscall.SIGTERM)
	if got := p.Wait(t); got != 0 {
		t.Errorf("%s ended with status %d after SIGTERM:\n%s", p, got, p.Output())
	}
}

// AwaitStdout waits for a line on standard output. That the process ends without fails the test.
func (p *Process) AwaitStdout(t testing.TB, line string) {
	t.Helper()
	if !p.ReachesStdout(t, line) {
		t.Fatalf("%s ended with status %d and has not said %q:\n%s", p, p.status, line, p.Output())
	}
}

// ReachesStdout waits for a line on standard output, and returns false if the process ends without.
func (p *Process) ReachesStdout(t testing.TB, line string) bool {
	t.Helper()
	return p.reaches(t, &p.stdout, line, func(text string) bool { return strings.Contains("\n"+text, "\n"+line+"\n") })
}

// AwaitStderr waits for a text on standard error. That the process ends without fails the test.
func (p *Process) AwaitStderr(t testing.TB, text string) {
	t.Helper()
	if !p.reachesStderr(t, text) {
		t.Fatalf("%s ended with status %d and has not said %q:\n%s", p, p.status, text, p.Output())
	}
}

func (p *Process) reachesStderr(t testing.TB, text string) bool {
	t.Helper()
	return p.reaches(t, &p.stderr, text, func(all string) bool { return strings.Contains(all, text) })
}

func (p *Process) reaches(t testing.TB, o *output, what string, there func(string) bool) bool {
	t.Helper()
	limit := time.After(Limit)
	for ended := p.ended; ; {
		text, changed := o.get()
		if there(text) {
			return true
		}
		if ended == nil {
			return false
		}
		select {
		case <-changed:
		case <-ended:
			ended = nil // its output is complete now: look once more
		case <-limit:
			t.Fatalf("%s has not said %q within %v:\n%s", p, what, Limit, p.Output())
		}
	}
}

// Stdout and Stderr are what the process has written so far, or, after Wait, all of it.
func (p *Process) Stdout() string { text, _ := p.stdout.get(); return text }

// Stderr: see Stdout.
func (p *Process) Stderr() string { text, _ := p.stderr.get(); return text }

// Output is both streams, for messages.
func (p *Process) Output() string { return p.Stdout() + p.Stderr() }

// String is the command line.
func (p *Process) String() string { return strings.Join(p.cmd.Args, " ") }

// output collects a stream. changed is closed by the next write.
type output struct {
	mu      sync.Mutex
	text    []byte
	changed chan struct{}
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, b...)
	close(o.changed)
	o.changed = make(chan struct{})
	return len(b), nil
}

func (o *output) get() (text string, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text), o.changed
}
