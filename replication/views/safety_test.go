package views

import (
	"flag"
	"strings"
	"testing"
	"time"
)

var (
	modelSeed = flag.Uint64("views.seed", 1, "first seed of the model of leases")
	modelRuns = flag.Int("views.runs", 60, "seeds that the model of leases runs")
)

// live runs a world through trouble and back to health and returns what went wrong.
func live(seed uint64, l lie) (w *world, wrong string) {
	w = newWorld(seed, l)
	w.after(0, func() { w.elect(w.machines[0]) })
	w.after(int64(time.Second), w.trouble)
	w.run(20 * time.Second)
	if w.broken != "" || l != honest {
		return w, w.broken
	}
	w.heal()
	w.run(40 * time.Second)
	if w.broken != "" {
		return w, w.broken
	}
	return w, w.unhealed()
}

func TestNoLeaseOutlivesTheView(t *testing.T) {
	commits, renewals, removals := 0, 0, 0
	for seed := *modelSeed; seed < *modelSeed+uint64(*modelRuns); seed++ {
		w, wrong := live(seed, honest)
		if wrong != "" {
			t.Fatalf("seed %d (repeat with -views.seed=%d -views.runs=1): %s\n%s", seed, seed, wrong, tail(w.log))
		}
		commits += w.commits
		renewals += w.renewals
		removals += w.removals
	}
	t.Logf("%d seeds: %d commits, %d leases given, %d removals of living processes", *modelRuns, commits, renewals, removals)
	if removals < *modelRuns {
		t.Errorf("only %d removals of living processes: the model asks nothing", removals)
	}
}

func tail(log []string) string { return strings.Join(log[max(0, len(log)-40):], "\n") }

// Each rule is needed: a world in which it is broken is caught.
func TestBrokenRulesAreCaught(t *testing.T) {
	for name, l := range map[string]lie{"heartbeats answered without a round": noRound, "rounds that count old answers": staleRound,
		"a new leader that does not wait": noWait, "a leader that takes leases for shorter": shortBound,
		"a term that was read before the heartbeat's time": termBefore, "two of five for a majority": manyVoters,
		"terms of heartbeats that are not compared": anyTerm, "heartbeats to a leader that does not lead any more": staleMandate,
		"own heartbeats answered by echoes that are older":              echoOfNow,
		"leases of groups counted from the heartbeat that was answered": fromAnswered,
		"leases counted from receipt":                                   fromReceipt, "clocks that drift too much": driftingClock} {
		t.Run(name, func(t *testing.T) {
			for seed := uint64(1); seed < 3000; seed++ {
				if _, wrong := live(seed, l); wrong != "" {
					t.Logf("seed %d: %s", seed, wrong)
					return
				}
			}
			t.Error("not caught by 3000 seeds")
		})
	}
}
