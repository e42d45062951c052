package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"hermesd/bench/child"
)

// maxLocalReplicas is the most that make sense on one machine: Hermes's own experiments end there.
const maxLocalReplicas = 7

func localCommand() *cobra.Command {
	o := defaultOptions()
	replicas := 3
	cmd := &cobra.Command{
		Use:   "local",
		Short: "Run a group of replicas on this machine, to try it",
		Long: `Run a group of replicas on this machine, each a process of its own, to try hermesd.

Replica number i takes clients on port --port + i - 1 of the loopback interface; the ports after those of all replicas are for
replication. A line for each replica says that it serves, and "ready" that all do. Ctrl-C ends them all.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if replicas < 1 || replicas > maxLocalReplicas {
				return fmt.Errorf("%d replicas: give 1 to %d", replicas, maxLocalReplicas)
			}
			if o.port < 1 || o.port+2*replicas-1 > 65535 {
				return fmt.Errorf("port %d: %d ports from there on are needed, all in 1 to 65535", o.port, 2*replicas)
			}
			if _, err := o.validate(); err != nil {
				return err
			}
			if err := o.timing.Validate(); err != nil {
				return err
			}
			return runLocal(cmd.OutOrStdout(), &o, replicas)
		},
	}
	f := cmd.Flags()
	f.IntVar(&replicas, "replicas", replicas, "number of replicas, 1 to 7")
	f.IntVarP(&o.port, "port", "p", o.port, "client port of the first replica")
	o.clientFlags(f)
	f.StringVar(&o.dataDir, "data-dir", "", "directory for what the replicas must remember, to be there at the next start; empty: one that ends with the group")
	return cmd
}

// runLocal starts the replicas and stays until they have ended.
func runLocal(out io.Writer, o *options, replicas int) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find my own program: %w", err)
	}
	if o.dataDir == "" && replicas > 1 {
		if o.dataDir, err = os.MkdirTemp("", "hermesd-local-"); err != nil {
			return err
		}
		defer os.RemoveAll(o.dataDir) // the replicas have ended by then
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	events := make(chan childEvent)
	children := make([]*localReplica, replicas+1) // by number
	for id := 1; id <= replicas; id++ {
		c, err := startChild(self, id, childArgs(o, id, replicas), events)
		if err != nil {
			stopChildren(children, syscall.SIGTERM)
			return fmt.Errorf("start replica %d: %w", id, err)
		}
		children[id] = c
	}
	l := local{out: out, children: children, port: o.port, running: replicas}
	for l.running > 0 {
		select {
		case sig := <-signals:
			l.stopping = true
			stopChildren(children, sig.(syscall.Signal))
		case e := <-events:
			l.event(e)
		}
	}
	return l.err
}

// childArgs are the arguments of replica number id.
func childArgs(o *options, id, replicas int) []string {
	args := []string{"serve", "--listen", "127.0.0.1", "--port", strconv.Itoa(o.port + id - 1),
		"--memory-limit", strconv.Itoa(o.memoryMB), "--conn-limit", strconv.Itoa(o.connLimit), "--threads", strconv.Itoa(o.threads),
		"--max-item-size", o.itemSizeMax.String(), "--op-timeout", o.opTimeout.String(), "--ready-fd", "3"}
	if o.disableEvictions {
		args = append(args, "--disable-evictions")
	}
	for range o.verbosity {
		args = append(args, "-v")
	}
	if replicas > 1 {
		var group []string
		for i := range replicas {
			group = append(group, fmt.Sprintf("%d=%s", i+1, loopback(o.port+replicas+i)))
		}
		args = append(args, "--id", strconv.Itoa(id), "--group", strings.Join(group, ","), "--data-dir", filepath.Join(o.dataDir, strconv.Itoa(id)),
			"--heartbeat", o.timing.Heartbeat.String(), "--lease", o.timing.Lease.String(), "--suspect-after", o.timing.SuspectAfter.String(),
			"--unreachable-after", o.timing.Unreachable.String(), "--election-timeout", o.timing.Election.String(),
			"--clock-drift", strconv.FormatFloat(o.timing.Drift, 'g', -1, 64))
	}
	return args
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// local is the state of a group on this machine.
type local struct {
	out      io.Writer
	children []*localReplica
	port     int
	running  int // that have not ended
	serving  int
	ready    bool
	stopping bool
	err      error
}

// event takes note of what a replica has come to.
func (l *local) event(e childEvent) {
	if e.serving {
		fmt.Fprintf(l.out, "replica %d serves %s\n", e.id, loopback(l.port+e.id-1))
		if l.serving++; l.serving == len(l.children)-1 {
			l.ready = true
			fmt.Fprintln(l.out, "ready")
		}
		return
	}
	l.running--
	l.children[e.id] = nil
	switch {
	case l.stopping && (e.err == nil || endedByStopSignal(e.err)): // as it was asked to; perhaps before it could listen for the signal
	case l.stopping && l.err != nil: // the others end because of the first
	case e.err == nil && !l.ready:
		e.err = errors.New("exit status 0")
		fallthrough
	case !l.ready: // a group that cannot start is no use: its own line has said why
		l.stopping = true
		l.err = fmt.Errorf("replica %d ended before the group was ready: %w", e.id, e.err)
		stopChildren(l.children, syscall.SIGTERM)
	default: // somebody tries what happens: let him
		fmt.Fprintf(l.out, "replica %d ended: %v\n", e.id, e.err)
		if l.running == 0 {
			l.err = errors.New("all replicas have ended")
		}
	}
}

// endedByStopSignal reports whether a child was ended by SIGTERM or SIGINT.
func endedByStopSignal(err error) bool {
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return false
	}
	ws := exit.Sys().(syscall.WaitStatus)
	return ws.Signaled() && (ws.Signal() == syscall.SIGTERM || ws.Signal() == syscall.SIGINT)
}

// localReplica is a replica's process.
type localReplica struct{ process *os.Process }

// childEvent says that a child serves, or that it has ended.
type childEvent struct {
	id      int
	serving bool
	err     error
}

// startChild starts a replica. It is killed when this process dies, however that may happen; its own process group keeps a Ctrl-C
// from it, which is forwarded.
func startChild(path string, id int, args []string, events chan<- childEvent) (*localReplica, error) {
	readyRead, readyWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, args...)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{readyWrite}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = child.Start(cmd, nil, func(err error) { events <- childEvent{id: id, err: err} })
	_ = readyWrite.Close()
	if err != nil {
		_ = readyRead.Close()
		return nil, err
	}
	go func() {
		if line, _ := bufio.NewReader(readyRead).ReadString('\n'); line == "ready\n" {
			events <- childEvent{id: id, serving: true}
		}
		_ = readyRead.Close()
	}()
	return &localReplica{cmd.Process}, nil
}

// stopLimit is how long replicas have to end after a signal before they are killed.
const stopLimit = 10 * time.Second

// stopChildren sends a signal to all that run, and kills those that do not heed it.
func stopChildren(children []*localReplica, sig syscall.Signal) {
	for _, c := range children {
		if c != nil {
			_ = c.process.Signal(sig) // fails only where it has ended
			time.AfterFunc(stopLimit, func() { _ = c.process.Kill() })
		}
	}
}
