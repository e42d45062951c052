package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"hermesd/bench/livetest"
	"hermesd/replication"
)

var traceDir = flag.String("trace.dir", "", "TestLiveTrace: where the trace is left, for tla/check")

// TestLiveTrace has a live group tell of its steps while clients of all replicas set and modify the same keys, then stop. What is told is whole: each update
// that a replica has started has been taken by both others, and acknowledged, and validated. Whether it is right is for TLC: tla/check.
func TestLiveTrace(t *testing.T) {
	dir := *traceDir
	if dir == "" {
		dir = t.TempDir()
	}
	const replicas, keys, rounds = 3, 8, 40
	g := livetest.StartGroup(t, livetest.GroupConfig{Replicas: replicas, TraceDir: dir})
	var clients sync.WaitGroup
	for i := range replicas {
		port := portOf(t, g.Clients[i])
		clients.Go(func() {
			for n := range rounds {
				key := fmt.Sprintf("k%d", n%keys)
				if n < keys {
					command(t, port, fmt.Sprintf("set %s 0 0 1\r\n%d", key, i))
				}
				command(t, port, "incr "+key+" 1")
				command(t, port, "append "+key+" 0 0 1\r\n0")
			}
		})
	}
	clients.Wait()
	g.Stop(t)

	type update struct {
		key string
		ts  replication.TraceTS
	}
	starts, taken, acked := map[update]int{}, map[update]uint{}, map[update]uint{}
	answered, validated := map[update]bool{}, 0
	for i := range replicas {
		file, err := os.Open(filepath.Join(dir, fmt.Sprintf("%d.ndjson", i+1)))
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			var s replication.TraceStep
			if err := json.Unmarshal(lines.Bytes(), &s); err != nil || int(s.Replica) != i+1 || s.Time == 0 {
				t.Fatalf("replica %d: %v: %s", i+1, err, lines.Text())
			}
			if s.TS == nil {
				continue
			}
			switch u := (update{s.Key, *s.TS}); s.Step {
			case replication.StepStart:
				starts[u]++
			case replication.StepINV:
				taken[u] |= 1 << i
			case replication.StepACK:
				acked[u] |= 1 << s.From
			case replication.StepAnswer:
				answered[u] = true
			case replication.StepVAL:
				validated++
			}
		}
		if err := lines.Err(); err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
	}
	if least := replicas * (2*rounds + keys); len(answered) != least || validated == 0 {
		t.Errorf("%d updates are answered, and %d VALs taken; clients have had %d answers", len(answered), validated, least)
	}
	for u, n := range starts {
		if n != 1 || bits.OnesCount(taken[u]) != replicas-1 || answered[u] && bits.OnesCount(acked[u]) != replicas-1 {
			t.Errorf("%v: started %d times, taken by %b, acknowledged by %b", u, n, taken[u], acked[u])
		}
	}
}

// TestTraceCannotBeWritten: a file that cannot be had is a mistake, and one that is full is told of at the end.
func TestTraceCannotBeWritten(t *testing.T) {
	group := "1=" + livetest.Loopback(livetest.FreePorts(t, 1)) + ",2=127.0.0.1:1"
	p := livetest.Start(t, livetest.Binary(t), "-p", "0", "--id", "1", "--group", group, "--data-dir", t.TempDir(), "--trace", t.TempDir())
	if status := p.Wait(t); status != 1 || !strings.Contains(p.Stderr(), "--trace: open ") || !strings.Contains(p.Stderr(), "is a directory") {
		t.Errorf("status %d: %s", status, p.Output())
	}
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skipf("this system has no /dev/full, where a disk is always full: %v", err)
	}
	g := livetest.StartGroup(t, livetest.GroupConfig{Replicas: 2, Args: []string{"--trace", "/dev/full"}})
	g.Stop(t)
	for _, p := range g.Processes {
		if !strings.Contains(p.Stderr(), "the trace is not complete") {
			t.Errorf("with a full disk: %s", p.Stderr())
		}
	}
}
