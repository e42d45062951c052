package replication

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
)

// simCounts says what has come about in executions. A simulation in which something never happens proves nothing about it.
type simCounts struct {
	received  [kindEnd]int
	answered  [Unavailable + 1]int
	evictions [2]int // refused, carried out
	late      [2]int // updates whose client was answered before: outranked, carried out

	partitions                                                                 [5]int
	refusedReplays                                                             [2]int // by who has something newer, or has nothing
	replays, flushReplays, invalidEntries, tombEntries, floorEntries, rejoined int
	unsure                                                                     [2]int // updates of which nobody was told what became of them: without effect, with

	crashes, leaves, restarts, elections, views, generations, entered, stalled, abandoned, turnedAway int

	evictedAlone  int // clients' keys, by members that were alone
	starved       int // messages that waited for memory
	putOff        int // grants, for want of memory
	streamersLost int // while somebody caught up from them

	expired, refused, lost, early, breaks, pauses, resent, yields, waited, collected int
}

// message counts what is remarkable about a message that a replica receives.
func (c *simCounts) message(r *simReplica, m *Message) {
	c.yields += b2i(m.Kind == INV && m.Bits&BitTired != 0)
	c.replays += b2i(m.Kind == INV && m.Bits&BitReplay != 0)
	c.flushReplays += b2i(m.Kind == INV && m.Bits&(BitReplay|BitFlush) == BitReplay|BitFlush)
	c.invalidEntries += b2i(m.Kind == ENTRY && m.Bits&BitInvalid != 0)
	c.tombEntries += b2i(m.Kind == ENTRY && m.Bits&BitTombstone != 0)
	c.floorEntries += b2i(m.Kind == ENTRY && m.Bits&BitFlush != 0)
	if m.Kind == NACK {
		if op := r.lanes[m.Lane].lane.flight.get(m.ID); op != nil && op.replay {
			c.refusedReplays[b2i(m.Bits&BitAbsent != 0)]++
		}
	}
}

// simTotals are the sums over executions that run at the same time.
type simTotals [128]atomic.Int64

// each gives every count with its name.
func (c *simCounts) each(f func(name string, n int)) {
	for k := INV; k < kindEnd; k++ {
		f(k.String()+" received", c.received[k])
	}
	for st := Hit; st <= Unavailable; st++ {
		f("answered "+simStatusNames[st], c.answered[st])
	}
	f("evictions refused", c.evictions[0])
	f("evictions carried out", c.evictions[1])
	f("evictions of expired items", c.expired)
	f("items of nobody evicted", c.collected)
	f("late updates outranked", c.late[0])
	f("late updates carried out", c.late[1])
	f("room refused", c.refused)
	f("connections broken", c.breaks)
	f("messages lost", c.lost)
	f("messages before PeerUp", c.early)
	f("INVs sent again", c.resent)
	f("replicas paused", c.pauses)
	f("INVs of the tired", c.yields)
	f("operations that waited", c.waited)
	f("replicas crashed", c.crashes)
	f("replicas that have left", c.leaves)
	f("replicas begun anew after their removal", c.restarts)
	for i, n := range c.partitions {
		f([...]string{"replicas cut off", "replicas that nobody hears", "replicas that hear nobody", "pairs cut off", "pairs cut off one way"}[i], n)
	}
	f("replays received", c.replays)
	f("replays of a flush received", c.flushReplays)
	f("replays refused for something newer", c.refusedReplays[0])
	f("replays refused for absence", c.refusedReplays[1])
	f("entries that are invalid", c.invalidEntries)
	f("entries that are tombstones", c.tombEntries)
	f("entries that are floors", c.floorEntries)
	f("replicas that have caught up", c.rejoined)
	f("leaders elected", c.elections)
	f("views committed", c.views)
	f("generations begun", c.generations)
	f("views entered", c.entered)
	f("messages that waited for a view", c.stalled)
	f("operations that died with their replica", c.abandoned)
	f("operations turned away", c.turnedAway)
	f("unsure updates without effect", c.unsure[0])
	f("unsure updates with effect", c.unsure[1])
	f("evictions by a member alone", c.evictedAlone)
	f("messages that waited for memory", c.starved)
	f("grants put off", c.putOff)
	f("streamers lost", c.streamersLost)
}

var simStatusNames = [...]string{Hit: "hit", Miss: "miss", Stored: "stored", NotStored: "not stored", Exists: "exists", NotFound: "not found", Deleted: "deleted",
	Touched: "touched", Number: "a number", NonNumeric: "not a number", Flushed: "flushed", OutOfMemory: "out of memory", Unavailable: "unavailable"}

func (t *simTotals) add(c *simCounts) {
	i := 0
	c.each(func(_ string, n int) {
		t[i].Add(int64(n))
		i++
	})
}

// simOfNodes is what comes about only where whole nodes change their views.
var simOfNodes = []string{"NEEDROOM received", "evictions by a member alone", "messages that waited for memory", "grants put off", "streamers lost"}

// never lists what has not happened at all, and should have.
func (t *simTotals) never(nodesInViews bool) (names []string) {
	i := 0
	new(simCounts).each(func(name string, _ int) {
		if t[i].Load() == 0 && slices.Contains(simOfNodes, name) == nodesInViews {
			names = append(names, name)
		}
		i++
	})
	return names
}

func (t *simTotals) String() string {
	var b strings.Builder
	i := 0
	new(simCounts).each(func(name string, _ int) {
		fmt.Fprintf(&b, "%12d %s\n", t[i].Load(), name)
		i++
	})
	return b.String()
}
