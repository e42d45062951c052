package bench_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hermesd/bench"
	"hermesd/bench/clients/gomemcache/check"
	"hermesd/bench/history"
	"hermesd/bench/livetest"
)

// These tests run groups of real processes under concurrent clients on all replicas and have the history judged.
//
//	go test ./bench -run Live -live.seed 17 -live.operations 50000
//
// What the clients ask for follows from the seed; how processes and sockets interleave does not, so a failure may need several runs to
// come again.
var (
	liveSeed       = flag.Uint64("live.seed", 0, "seed of what the clients of the live tests ask for; 0: another one in each run")
	liveOperations = flag.Int("live.operations", 0, "operations of each live test; 0: as many as suit its size")
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(livetest.Main(m))
}

// liveKeys are few, so that clients conflict, and enough that no key has more operations than the checker likes.
func liveKeys() []string {
	keys := make([]string, 12)
	for i := range keys {
		keys[i] = fmt.Sprintf("live:%d", i)
	}
	return keys
}

// liveConfig is what three clients of each replica ask for, all commands, in pipelines. The seed is logged.
func liveConfig(t *testing.T, servers []string, operations int) bench.RecordConfig {
	t.Helper()
	if *liveOperations > 0 {
		operations = *liveOperations
	}
	if testing.Short() {
		operations /= 4
	}
	seed := *liveSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("repeat with -live.seed %d", seed)
	return bench.RecordConfig{Servers: servers, Clients: 3 * len(servers), Keys: liveKeys(), Pipeline: 6, Operations: operations,
		Wait: livetest.Limit, FlushWeight: 1, Seed: seed,
		Trouble: func(client int, err error) { t.Errorf("client %d lost its connection: %v", client, err) }}
}

// record runs the clients to the end of their operations.
func record(t *testing.T, cfg bench.RecordConfig) *history.History {
	t.Helper()
	h := history.New(nil)
	if err := bench.Record(t.Context(), cfg, h); err != nil {
		t.Fatal(err)
	}
	return h
}

// judge checks that a history is linearizable. A picture of one that is not is left with the test's artifacts (go test -artifacts).
func judge(t *testing.T, h *history.History) {
	t.Helper()
	err := h.Check(time.Minute)
	if violation, ok := errors.AsType[*history.Violation](err); ok {
		path := filepath.Join(t.ArtifactDir(), "violation.html")
		if file, createErr := os.Create(path); createErr == nil {
			_ = violation.WriteHTML(file)
			_ = file.Close()
			t.Logf("picture: %s (kept by go test -artifacts)", path)
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// expectAnswers checks that every command was asked for, that gets have hit at every replica, and that no more than unansweredMax
// operations had no answer, or SERVER_ERROR: a history without answers is linearizable too.
func expectAnswers(t *testing.T, cfg bench.RecordConfig, h *history.History, unansweredMax int) {
	t.Helper()
	kinds := make(map[history.Kind]int)
	hits := make([]int, len(cfg.Servers))
	var unanswered []history.Operation
	for _, o := range h.Operations() {
		kinds[o.In.Kind]++
		switch o.Out.Status {
		case history.Unknown:
			unanswered = append(unanswered, o)
		case history.Hit:
			hits[o.Client%len(cfg.Servers)]++
		}
	}
	if len(unanswered) > unansweredMax {
		t.Errorf("%d operations had no answer, or SERVER_ERROR, want at most %d; the first: %v", len(unanswered), unansweredMax, unanswered[0])
	}
	for kind := history.Get; kind <= history.Flush; kind++ {
		if kinds[kind] == 0 {
			t.Errorf("nobody asked for %v", kind)
		}
	}
	for i, n := range hits {
		if n == 0 {
			t.Errorf("no get has hit at %s", cfg.Servers[i])
		}
	}
}

func TestLiveGroupIsLinearizable(t *testing.T) {
	for _, replicas := range []int{1, 2, 3, 5} {
		t.Run(fmt.Sprintf("%d replicas", replicas), func(t *testing.T) {
			g := livetest.StartGroup(t, livetest.GroupConfig{Replicas: replicas})
			cfg := liveConfig(t, g.Clients, 12000)
			h := record(t, cfg)
			// Two requests of a batch are never for the same key: some of those drawn are put aside.
			if n := len(h.Operations()); n < cfg.Operations/2 {
				t.Errorf("%d operations, want most of %d", n, cfg.Operations)
			}
			expectAnswers(t, cfg, h, 0)
			judge(t, h)
			g.Stop(t)
		})
	}
}

// TestLiveGroupWithBreaks resets connections between replicas again and again while clients are at work. Bytes are lost in both
// directions; updates in flight must be sent again, and nothing be done twice. Clients keep their connections, and most of them notice no more
// than a wait: SERVER_ERROR is for breaks that last, as they may where the processor is busy.
func TestLiveGroupWithBreaks(t *testing.T) {
	g := livetest.StartGroup(t, livetest.GroupConfig{Replicas: 3, Proxied: true})
	cfg := liveConfig(t, g.Clients, 100000)
	cfg.Duration = 4 * time.Second
	if testing.Short() {
		cfg.Duration /= 2
	}
	h := history.New(nil)
	ended := make(chan error, 1)
	go func() { ended <- bench.Record(t.Context(), cfg, h) }()

	random := rand.New(rand.NewPCG(cfg.Seed, 0))
	const pause = 150 * time.Millisecond // between breaks: a replica that is refused or cut off waits before it dials again
	cuts := 0
	for breaks := time.NewTicker(pause); ; {
		if g.Cut(random.IntN) {
			cuts++
		}
		select {
		case <-breaks.C:
			continue
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
		}
		break
	}
	t.Logf("%d connections were reset while %d operations ran", cuts, len(h.Operations()))
	if cuts < 3 {
		t.Errorf("only %d connections were reset: give more operations", cuts)
	}
	expectAnswers(t, cfg, h, len(h.Operations())/10)
	judge(t, h)
	g.Stop(t)
}

// TestLiveGroupLosesAReplica kills one of three replicas under load: the others go on without it; started again, it gets its memory from them and
// serves. What was answered meanwhile, by all, is linearizable.
func TestLiveGroupLosesAReplica(t *testing.T) {
	g := livetest.StartGroup(t, livetest.GroupConfig{Replicas: 3})
	cfg := liveConfig(t, g.Clients, 1<<30) // until the end of the context
	cfg.Pipeline = 1                       // updates without an answer make a history hard to judge
	cfg.Trouble = nil                      // the clients of the killed one lose theirs
	recording, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	h := history.New(nil)
	go func() { ended <- bench.Record(recording, cfg, h) }()

	survivor, err := bench.Dial(g.Clients[0], livetest.Limit)
	if err != nil {
		t.Fatal(err)
	}
	defer survivor.Close()
	store(t, survivor)
	for len(h.Operations()) < 1000 {
		ask(t, survivor, history.Hit, history.Miss)
	}
	g.Processes[2].Signal(t, os.Kill)
	g.Processes[2].Wait(t)
	store(t, survivor)
	ask(t, survivor, history.Hit, history.Miss)
	g.Restart(t, 3)
	g.AwaitServing(t, 3)
	back, err := bench.Dial(g.Clients[2], livetest.Limit)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	ask(t, back, history.Hit, history.Miss)
	store(t, back)
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	judge(t, h)
	if t.Failed() {
		for _, p := range g.Processes {
			t.Logf("%s:\n%s", p, p.Stderr())
		}
	}
	for _, p := range g.Processes {
		p.Stop(t)
	}
}

// store sets a key of its own, which must be stored.
func store(t *testing.T, c *bench.Client) {
	t.Helper()
	outs, err := c.Do(history.Input{Kind: history.Set, Key: "own", Value: "v"})
	if err != nil {
		t.Fatal(err)
	}
	if outs[0].Status != history.Stored {
		t.Errorf("set: %v", outs[0])
	}
}

// ask gets a key and returns the status of the answer, which must be one of those given.
func ask(t *testing.T, c *bench.Client, want ...history.Status) history.Status {
	t.Helper()
	outs, err := c.Do(history.Input{Kind: history.Get, Key: "live:0"})
	if err != nil {
		t.Fatal(err)
	}
	for _, status := range want {
		if outs[0].Status == status {
			return status
		}
	}
	t.Errorf("get: %v, want status %v", outs[0], want)
	return 0
}

// TestLiveGomemcache has somebody else's client ask a group for everything.
func TestLiveGomemcache(t *testing.T) {
	g := livetest.StartGroup(t, livetest.GroupConfig{Replicas: 3, Args: []string{"-m", "128"}})
	if err := check.Run(g.Clients); err != nil {
		t.Error(err)
	}
	for _, p := range g.Processes {
		if strings.Contains(p.Stderr(), `"level":"error"`) {
			t.Errorf("%s has logged an error:\n%s", p, p.Stderr())
		}
	}
	g.Stop(t)
}
