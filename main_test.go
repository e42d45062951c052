package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hermesd/bench/livetest"
)

// These tests run the program as people and their scripts do. What the options accept in detail is in serve_test.go.

func TestMain(m *testing.M) { os.Exit(livetest.Main(m)) }

// TestMistakesAreOneLine: a mistake on the command line, or an address that cannot be had, is one line that says what, with what; the
// exit status is not 0, and nothing has been started.
func TestMistakesAreOneLine(t *testing.T) {
	binary := livetest.Binary(t)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	taken := busy.Addr().(*net.TCPAddr).Port
	takenText := strconv.Itoa(taken)
	port := strconv.Itoa(livetest.FreePorts(t, 8))
	memcached := livetest.StartGroup(t, livetest.GroupConfig{Replicas: 1}).Clients[0]
	for _, c := range []struct{ args, says string }{
		{"--frobnicate", "unknown flag: --frobnicate"},
		{"-Z", "unknown shorthand flag: 'Z'"},
		{"frobnicate", `unknown command "frobnicate"`},
		{"serve now", `"now"`},
		{"-p http", `"http"`},
		{"-p 99999", "port 99999"},
		{"-p", "flag needs an argument"},
		{"-I 512", "512"},
		{"-I 2048m", "at most a gigabyte"},
		{"-I 40m -m 64", "more than half of the memory limit of 64 megabytes"},
		{"-I large", `"large"`},
		{"-m 0", "memory limit of 0"},
		{"-t 0", "0 threads"},
		{"-c 0", "limit of 0 connections"},
		{"-p " + takenText, "address already in use"},
		{"-p " + port + " -l 192.0.2.1", "192.0.2.1"},
		{"--id 1 --group 1:127.0.0.1:7001", "give number=host:port"},
		{"--id 1 --group 1=127.0.0.1", `"127.0.0.1" is not host:port`},
		{"--id 1 --group 1=127.0.0.1:7001,1=127.0.0.1:7002", "replica 1 is given twice"},
		{"--id 1 --group 1=127.0.0.1:7001,2=127.0.0.1:7001", "replicas 1 and 2 have the same address"},
		{"--id 3 --group 1=127.0.0.1:7001,2=127.0.0.1:7002", "replica 3 is not in the group"},
		{"--group 1=127.0.0.1:7001,2=127.0.0.1:7002", "--group without --id"},
		{"--id 1", "--id 1 without --group"},
		{"--transport udp", `--transport "udp": give auto, rdma or tcp`},
		{"--rdma-ring 100k", "--rdma-ring 100k: give a power of two"},
		{"--rdma-depth 100", "--rdma-depth 100: give a power of two"},
		{"rdma eth0", `"eth0" is not an address`},
		{"--id 1 --group 1=127.0.0.1:7001,2=127.0.0.1:7002", "--group without --data-dir"},
		{"-p " + port + " --id 1 --group 1=127.0.0.1:" + takenText + ",2=127.0.0.1:7002 --data-dir " + t.TempDir(), "replication address of replica 1"},
		{"--id 1 --group 1=a:1,2=b:1 --data-dir d --lease 1s", "before its lease (1s) has surely run out: suspect-after must be at least 1.0"},
		{"--id 1 --group 1=a:1,2=b:1 --data-dir d --heartbeat 200ms", "more than a third of the lease"},
		{"--witness", "--witness is for groups"},
		{"group status", "give --at"},
		{"group status --at here", `--at "here" is not host:port`},
		{"group status --at 127.0.0.1:1 --wait soon", `--wait "soon"`},
		{"group status --at 127.0.0.1:1", "no server of a group at 127.0.0.1:1"},
		{"group status --at " + memcached, memcached + " is an address for clients"},
		{"group add --at 127.0.0.1:1", "give one replica"},
		{"group add 4 --at 127.0.0.1:1", "give number=host:port"},
		{"group remove x --at 127.0.0.1:1", `"x" is not the number of a replica`},
		{"group replace 3=a --at 127.0.0.1:1", `"a" is not host:port`},
		{"local --replicas 0", "0 replicas: give 1 to 7"},
		{"local --replicas 8", "8 replicas: give 1 to 7"},
		{"local --port 65535", "port 65535"},
		{"local -I 512", "512"},
		{"bench load --ratio none", `ratio "none"`},
	} {
		t.Run(c.args, func(t *testing.T) {
			p := livetest.Start(t, binary, strings.Fields(c.args)...)
			if status := p.Wait(t); status != 1 {
				t.Errorf("exit status %d, want 1", status)
			}
			line, more, whole := strings.Cut(p.Stderr(), "\n")
			if p.Stdout() != "" || !whole || more != "" || !strings.HasPrefix(line, "hermesd: ") || !strings.Contains(line, c.says) {
				t.Errorf("standard output %q, standard error %q: want nothing, and one line of hermesd's about %q", p.Stdout(), p.Stderr(), c.says)
			}
		})
	}
}

// TestLocalTellsOfPortsInUse: `local` may print lines of its replicas' too, but says in a last one that it gave up, and leaves nothing behind.
func TestLocalTellsOfPortsInUse(t *testing.T) {
	binary := livetest.Binary(t)
	first := livetest.FreePorts(t, 6)
	for name, port := range map[string]int{"for clients": first + 1, "for replication": first + 4} {
		t.Run(name, func(t *testing.T) {
			busy, err := net.Listen("tcp", livetest.Loopback(port))
			if err != nil {
				t.Fatal(err)
			}
			defer busy.Close()
			p := livetest.Start(t, binary, "local", "--port", strconv.Itoa(first))
			if status := p.Wait(t); status != 1 {
				t.Errorf("exit status %d, want 1", status)
			}
			lines := strings.Split(strings.TrimSpace(p.Stderr()), "\n")
			last := lines[len(lines)-1]
			if !strings.Contains(p.Stderr(), "address already in use") || !strings.HasPrefix(last, "hermesd: replica 2 ended before the group was ready") {
				t.Errorf("standard error:\n%s\nwant the reason, and in the last line that replica 2 ended", p.Stderr())
			}
			_ = busy.Close()
			expectEnded(t, first, 1, 3)
		})
	}
}

func TestVersionAndHelp(t *testing.T) {
	binary := livetest.Binary(t)
	for _, args := range []string{"-V", "--version", "version"} {
		p := livetest.Start(t, binary, args)
		if status := p.Wait(t); status != 0 || !strings.HasPrefix(p.Stdout(), "hermesd ") || strings.Count(p.Stdout(), "\n") != 1 || p.Stderr() != "" {
			t.Errorf("%s: status %d, %q, %q: want the version in one line", args, status, p.Stdout(), p.Stderr())
		}
	}
	for _, args := range []string{"-h", "--help", "serve -h", "local -h", "bench -h", "bench load -h"} {
		p := livetest.Start(t, binary, strings.Fields(args)...)
		if status := p.Wait(t); status != 0 || !strings.Contains(p.Stdout(), "Usage:") || p.Stderr() != "" {
			t.Errorf("%s: status %d, standard error %q", args, status, p.Stderr())
		}
	}
	help := livetest.Start(t, binary, "-h")
	help.Wait(t)
	for _, option := range []string{"-p, --port", "-l, --listen", "-m, --memory-limit", "-c, --conn-limit", "-t, --threads", "-I, --max-item-size",
		"-M, --disable-evictions", "-v, --verbose", "-V, --version", "-h, --help", "--id", "--group"} {
		if !strings.Contains(help.Stdout(), option) {
			t.Errorf("-h does not tell of %s", option)
		}
	}
}

// startLocal starts `hermesd local` on free ports and waits until it is ready. It returns the first port.
func startLocal(t *testing.T, replicas int, args ...string) (p *livetest.Process, port int) {
	t.Helper()
	binary := livetest.Binary(t)
	for attempt := 1; ; attempt++ {
		port = livetest.FreePorts(t, 2*replicas)
		p = livetest.Start(t, binary, append([]string{"local", "--replicas", strconv.Itoa(replicas), "--port", strconv.Itoa(port)}, slices.Concat(livetest.Patient, args)...)...)
		if p.ReachesStdout(t, "ready") {
			return p, port
		}
		if attempt == 5 || !strings.Contains(p.Stderr(), "address already in use") {
			t.Fatalf("%s ended:\n%s", p, p.Output())
		}
	}
}

// command sends a line to a server and returns the line that it answers.
func command(t *testing.T, port int, line string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", livetest.Loopback(port), livetest.Limit)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(livetest.Limit))
	if _, err := io.WriteString(conn, line+"\r\nquit\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("%s: %v after %q", line, err, answer)
	}
	return strings.TrimSuffix(string(answer), "\r\n")
}

// expectEnded waits until nobody listens on the client ports of replicas first..last any more.
func expectEnded(t *testing.T, port, first, last int) {
	t.Helper()
	for id := first; id <= last; id++ {
		address := livetest.Loopback(port + id - 1)
		for deadline := time.Now().Add(livetest.Limit); ; time.Sleep(time.Millisecond) {
			conn, err := net.DialTimeout("tcp", address, livetest.Limit)
			if err != nil {
				break
			}
			_ = conn.Close()
			if time.Now().After(deadline) {
				t.Fatalf("replica %d still listens on %s", id, address)
			}
		}
	}
}

func TestLocalSaysWhenItServes(t *testing.T) {
	for _, replicas := range []int{1, 3, 7} {
		t.Run(fmt.Sprintf("%d replicas", replicas), func(t *testing.T) {
			p, port := startLocal(t, replicas)
			lines := strings.Split(strings.TrimSuffix(p.Stdout(), "\n"), "\n")
			var want []string
			for i := range replicas {
				want = append(want, fmt.Sprintf("replica %d serves %s", i+1, livetest.Loopback(port+i)))
			}
			slices.Sort(lines[:len(lines)-1]) // they may become ready in any order
			if want = append(want, "ready"); !slices.Equal(lines, want) {
				t.Errorf("standard output %q, want %q", lines, want)
			}
			if got := command(t, port, "set k 0 0 1\r\n1"); got != "STORED" {
				t.Errorf("set: %q", got)
			}
			if got := command(t, port+replicas-1, "get k"); got != "VALUE k 0 1\r\n1\r\nEND" {
				t.Errorf("get from the last replica: %q", got)
			}
			p.Stop(t)
			expectEnded(t, port, 1, replicas)
		})
	}
}

// TestLogIsJSONWhereNobodyWatches: one object a line, in which no name comes twice.
func TestLogIsJSONWhereNobodyWatches(t *testing.T) {
	p, _ := startLocal(t, 3, "-v")
	p.Stop(t)
	for line := range strings.Lines(p.Stderr()) {
		decoder := json.NewDecoder(strings.NewReader(line))
		if _, err := decoder.Token(); err != nil {
			t.Errorf("not JSON: %s", line)
			continue
		}
		names := make(map[string]bool)
		for decoder.More() {
			name, err := decoder.Token()
			var value any
			if err == nil {
				err = decoder.Decode(&value)
			}
			if err != nil || names[fmt.Sprint(name)] {
				t.Errorf("%v, or %v comes twice: %s", err, name, line)
				break
			}
			names[fmt.Sprint(name)] = true
		}
	}
	if !strings.Contains(p.Stderr(), `"message":"serving"`) {
		t.Errorf("no line says that a replica serves:\n%s", p.Stderr())
	}
}

// TestSignalsEndCleanly: SIGTERM, and SIGINT as Ctrl-C sends it, end a replica and a whole local group with status 0.
func TestSignalsEndCleanly(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		for _, replicas := range []int{1, 3} {
			t.Run(fmt.Sprintf("%v, local, %d replicas", sig, replicas), func(t *testing.T) {
				p, port := startLocal(t, replicas)
				idle, err := net.Dial("tcp", livetest.Loopback(port)) // a client that stays does not hold it up
				if err != nil {
					t.Fatal(err)
				}
				defer idle.Close()
				p.Signal(t, sig)
				if status := p.Wait(t); status != 0 {
					t.Errorf("exit status %d:\n%s", status, p.Output())
				}
				expectEnded(t, port, 1, replicas)
			})
		}
		t.Run(fmt.Sprintf("%v, serve", sig), func(t *testing.T) {
			g := livetest.StartGroup(t, livetest.GroupConfig{Replicas: 1})
			g.Processes[0].Signal(t, sig)
			if status := g.Processes[0].Wait(t); status != 0 {
				t.Errorf("exit status %d:\n%s", status, g.Processes[0].Output())
			}
		})
	}
}

// TestSignalBeforeTheGroupIsComplete: a replica that waits for the others ends just as well.
func TestSignalBeforeTheGroupIsComplete(t *testing.T) {
	port := livetest.FreePorts(t, 3)
	p := livetest.Start(t, livetest.Binary(t), "-p", strconv.Itoa(port), "--id", "1",
		"--group", fmt.Sprintf("1=%s,2=%s", livetest.Loopback(port+1), livetest.Loopback(port+2)), "--data-dir", t.TempDir())
	p.AwaitStderr(t, "listening")
	if got := command(t, port, "get k"); !strings.HasPrefix(got, "SERVER_ERROR ") {
		t.Errorf("get from a group that is not complete: %q", got)
	}
	p.Stop(t)
}

// TestLocalStoppedWhileItStarts: a replica that the signal reaches before it listens for it dies of it. That is what was asked for, and
// no failure of the group's.
func TestLocalStoppedWhileItStarts(t *testing.T) {
	for sig, failure := range map[syscall.Signal]bool{syscall.SIGTERM: false, syscall.SIGINT: false, syscall.SIGSEGV: true} {
		cmd := exec.Command("sleep", "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Process.Signal(sig)
		l := local{out: io.Discard, children: make([]*localReplica, 3), running: 2, stopping: true}
		l.event(childEvent{id: 1, err: cmd.Wait()})
		if failed := l.err != nil; failed != failure {
			t.Errorf("%v ends a replica of a group that is being stopped: error %v", sig, l.err)
		}
	}
}

// TestKilledLocalLeavesNothing: however `local` dies, its replicas do not outlive it.
func TestKilledLocalLeavesNothing(t *testing.T) {
	p, port := startLocal(t, 3)
	children := childrenOf(t, p.PID())
	if len(children) != 3 {
		t.Fatalf("%d children, want 3", len(children))
	}
	p.Signal(t, syscall.SIGKILL)
	p.Wait(t)
	expectEnded(t, port, 1, 3)
	for _, pid := range children {
		for deadline := time.Now().Add(livetest.Limit); runs(pid); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("replica with process id %d is still there", pid)
			}
		}
	}
}

// TestLocalTellsOfAKilledReplica: whoever tries what happens when a replica dies is told of it, and the others stay.
func TestLocalTellsOfAKilledReplica(t *testing.T) {
	p, port := startLocal(t, 3)
	if err := syscall.Kill(childrenOf(t, p.PID())[1], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.AwaitStdout(t, "replica 2 ended: signal: killed")
	if got := command(t, port, "version"); !strings.HasPrefix(got, "VERSION ") {
		t.Errorf("version of replica 1: %q", got)
	}
	p.Stop(t)
	expectEnded(t, port, 1, 3)
}

// childrenOf lists the children of a process in the order in which they were started: of `local`, that of the replicas' numbers.
func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil || len(paths) == 0 {
		t.Skip("this kernel does not list the children of a process")
	}
	var children []int
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // a thread that has just ended
		}
		for word := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			children = append(children, child)
		}
	}
	slices.Sort(children)
	return children
}

// runs reports whether a process is there, and is not merely waiting for its parent to take note of its end.
func runs(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(text), ") Z ")
}
