package replication

import (
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	simSeed   = flag.Uint64("sim.seed", 0, "simulate this seed only; 0: many")
	simFrom   = flag.Uint64("sim.from", 1, "the first seed")
	simRuns   = flag.Int("sim.runs", 0, "how many seeds; 0: what takes some seconds")
	simFor    = flag.Duration("sim.for", 0, "go on with further seeds for so long; 0: stop after -sim.runs")
	simTraced = flag.Bool("sim.trace", false, "print the execution of -sim.seed")
)

// runs is the number of seeds to simulate.
func runs(long, short int) int {
	switch {
	case *simRuns != 0:
		return *simRuns
	case testing.Short():
		return short
	}
	return long
}

// simTest is a kind of groups, with a test of its own.
type simTest struct {
	name        string
	hooks       simHooks
	long, short int  // seeds
	telling     int  // seeds in which everything has to come about that the simulation is there for; 0: it need not
	nodes       bool // whole nodes whose views change
}

// simulate runs a seed. A panic of the engine is a violation too.
func simulate(seed uint64, hooks simHooks, trace *simTrace) (s *sim, wrong string) {
	defer func() {
		if p := recover(); p != nil {
			wrong = fmt.Sprintf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	s = newSim(seed, hooks, trace)
	return s, s.run()
}

// tracedLines is how much of an execution a failure shows.
const tracedLines = 40

// TestSimulation simulates groups from many seeds.
func TestSimulation(t *testing.T) {
	simTest{name: "TestSimulation", long: 1000, short: 100, telling: 300}.run(t)
}

// TestSimulationOfNodes simulates groups of whole nodes whose views change.
func TestSimulationOfNodes(t *testing.T) {
	simTest{name: "TestSimulationOfNodes", long: 30, short: 6, telling: 30, nodes: true, hooks: simHooks{config: (*simConfig).onlyNodesInViews}}.run(t)
}

// TestSimulationOfFullNodes is the same, where memory is in great demand.
func TestSimulationOfFullNodes(t *testing.T) {
	simTest{name: "TestSimulationOfFullNodes", long: 10, short: 2, nodes: true, hooks: simHooks{config: (*simConfig).fullNodesInViews}}.run(t)
}

func (st simTest) run(t *testing.T) {
	if *simSeed != 0 {
		trace := &simTrace{last: tracedLines}
		if *simTraced {
			trace.last = 0
		}
		s, wrong := simulate(*simSeed, st.hooks, trace)
		if *simTraced {
			fmt.Println(trace)
		}
		if wrong != "" {
			t.Fatal(st.failureOf(*simSeed, wrong))
		}
		t.Logf("seed %d: %d events, %d operations, digest %016x", *simSeed, s.ran, len(s.ops), s.digest)
		return
	}
	began := time.Now()
	var events, ops atomic.Int64
	var totals simTotals
	n := runs(st.long, st.short)
	bad, tried := eachSeed(*simFrom, n, badSeedsMax, func(seed uint64) string {
		s, wrong := simulate(seed, st.hooks, nil)
		if s != nil {
			events.Add(int64(s.ran))
			ops.Add(int64(len(s.ops)))
			totals.add(&s.counts)
		}
		return wrong
	})
	n = int(tried)
	for _, b := range bad {
		t.Error(st.failureOf(b.seed, b.wrong))
	}
	t.Logf("%d seeds from %d: %d events, %d operations in %v", n, *simFrom, events.Load(), ops.Load(), time.Since(began).Round(time.Millisecond))
	t.Logf("what has come about:\n%v", &totals)
	if never := totals.never(st.nodes); len(never) > 0 && st.telling > 0 && n >= st.telling && len(bad) == 0 {
		t.Errorf("in none of %d seeds: %s", n, strings.Join(never, ", "))
	}
}

// failureOf describes a failed seed, with the end of its execution and how to repeat it.
func (st simTest) failureOf(seed uint64, wrong string) string {
	trace := &simTrace{last: tracedLines}
	if *simTraced {
		trace.last = 1
	}
	s, _ := simulate(seed, st.hooks, trace)
	drawn := ""
	if s != nil {
		drawn = s.cfg.String()
	}
	return fmt.Sprintf("seed %d: %s\n%s\n  %s\nrepeat it with: go test ./replication -run '%s$' -sim.seed=%d -sim.trace", seed, wrong, drawn, trace, st.name, seed)
}

type badSeed struct {
	seed  uint64
	wrong string
}

// badSeedsMax is how many failed seeds are told of.
const badSeedsMax = 3

// eachSeed runs n seeds, and more while -sim.for lasts, on all processors, in order but for what is under way at once. It returns the first that
// failed, most of them, and how many it has run.
func eachSeed(from uint64, n, most int, run func(seed uint64) string) (bad []badSeed, tried uint64) {
	began := time.Now()
	var mu sync.Mutex
	var wg sync.WaitGroup
	next := from
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				mu.Lock()
				seed := next
				over := seed >= from+uint64(n) && time.Since(began) >= *simFor || len(bad) >= most
				if !over {
					next++
				}
				mu.Unlock()
				if over {
					return
				}
				if wrong := run(seed); wrong != "" {
					mu.Lock()
					bad = append(bad, badSeed{seed, wrong})
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return bad, next - from
}

// TestSimulationIsRepeatable: the same seed is the same execution.
func TestSimulationIsRepeatable(t *testing.T) {
	repeatable(t, simHooks{}, runs(100, 20))
	repeatable(t, simHooks{config: (*simConfig).onlyNodesInViews}, runs(3, 1))
}

func repeatable(t *testing.T, hooks simHooks, seeds int) {
	t.Helper()
	for seed := range uint64(seeds) {
		first, _ := simulate(seed+1, hooks, nil)
		second, _ := simulate(seed+1, hooks, &simTrace{last: 1})
		if first.digest != second.digest || first.ran != second.ran {
			t.Fatalf("seed %d: two executions with %d and %d events and the digests %016x and %016x: something depends on more than the seed",
				seed+1, first.ran, second.ran, first.digest, second.digest)
		}
	}
}
