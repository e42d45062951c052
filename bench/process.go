package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"hermesd/bench/child"
)

const (
	startLimit = 20 * time.Second // for a server to answer after it was started
	stopLimit  = 10 * time.Second // for a server to end after SIGTERM
)

// process is a server that this program has started on a port of the loopback interface.
type process struct {
	cmd    *exec.Cmd
	addr   string
	output *tail
	ended  chan struct{}
}

// startProcess starts a server, pinned to the processors unless there are none given, and waits until it answers. The server is
// killed when this program dies.
func startProcess(ctx context.Context, addr string, cpus []int, path string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(path, args...), addr: addr, output: &tail{}, ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	pin := func() error {
		if len(cpus) == 0 {
			return nil
		}
		return pinThread(cpus)
	}
	// How it ends does not matter: what it has said is in output.
	if err := child.Start(p.cmd, pin, func(error) { close(p.ended) }); err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	if err := p.awaitVersion(ctx); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// awaitVersion waits until the server answers.
func (p *process) awaitVersion(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		_, err := serverVersion(p.addr)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended: %s", strings.Join(p.cmd.Args, " "), p.output)
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w: %s", strings.Join(p.cmd.Args, " "), err, p.output)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// stop ends the server and waits for that.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only when it has ended
	select {
	case <-p.ended:
	case <-time.After(stopLimit):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// cpu returns the processor time that all threads of the server have used, in nanoseconds where the kernel
// keeps schedstat, else in ticks of 10 ms. Threads that have ended are missing from the former.
func (p *process) cpu() (time.Duration, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.cmd.Process.Pid))
	if err != nil || len(tasks) == 0 {
		return p.cpuTicks()
	}
	var total time.Duration
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has just ended
		}
		if err != nil {
			return 0, err
		}
		onCPU, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseInt(onCPU, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", task, err)
		}
		total += time.Duration(ns)
	}
	return total, nil
}

// cpuTicks reads utime and stime, fields 14 and 15 of proc(5)'s stat; field 2 may hold blanks and ends with the last ")".
func (p *process) cpuTicks() (time.Duration, error) {
	path := fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("%s: cannot be understood: %q", path, text)
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	const tick = 10 * time.Millisecond // sysconf(_SC_CLK_TCK) is 100 on Linux
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}

// serverVersion asks a server for its version.
func serverVersion(addr string) (string, error) {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(conn, "version\r\nquit\r\n"); err != nil {
		return "", err
	}
	reply, err := io.ReadAll(io.LimitReader(conn, 256))
	version, ok := strings.CutPrefix(strings.TrimSpace(string(reply)), "VERSION ")
	if !ok {
		return "", fmt.Errorf("%s answered %q to `version` (%v)", addr, reply, err)
	}
	return version, nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailBytes = 4096

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if len(t.text) > 2*tailBytes {
		t.text = append(t.text[:0], t.text[len(t.text)-tailBytes:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.text) == 0 {
		return "it printed nothing"
	}
	return "it printed: " + strings.TrimSpace(string(t.text))
}
