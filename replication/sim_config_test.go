package replication

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"hermesd/bench/history"
	"hermesd/replication/views"
)

// simConfig is one simulated group: all of it is drawn from the seed. Features are switched on and off for a whole run ("swarm testing"):
// a run with everything at once rarely gets deep into anything.
//
// Times are in steps, the simulation's only unit. What counts is their proportion to each other.
type simConfig struct {
	seed     uint64
	nodes    bool // whole Nodes over real tables, instead of bare lanes over fakeStores
	replicas int
	lanes    int
	keys     int
	clients  int // per replica, each with one operation at a time
	ops      int // per client
	weights  [simKinds]int

	rareExpiry bool // exptimes that have passed are given less often

	timing Timing
	tick   uint64 // steps between two ticks of a replica
	delay  uint64 // mean of a message's time under way
	uneven bool   // channels differ in that
	tail   int    // one message in so many takes far longer; 0: none
	think  uint64 // mean pause of a client

	// Mean steps between two faults of a kind in the whole group; 0: none.
	breaks, pauses, refusals, evictions uint64
	full                                int  // one Put of a coordinator in so many finds no memory; 0: none
	skew                                bool // replicas tick at different speeds
	unknown                             bool // what a client was not answered in time stays unknown to the checker too

	// Groups whose views change.
	dynamic                     bool
	witness                     bool
	views                       views.Timing
	drift                       int    // difference in rate of two clocks, at most, in thousandths
	crashes, partitions, leaves uint64 // mean steps between two
	gentle                      bool   // never is the last one that serves taken away
	longPauses                  bool   // some are longer than a lease
	chunk                       uint32 // bytes that are asked for at a time while catching up
	fickle                      int    // one in so many is asked of another member than before
	numbers                     bool   // all values are numbers
	entering                    bool   // it takes a while to enter a view

	memory     uint64 // nodes: of the processes that the group begins with, in bytes; 0: as little as can be
	shrinks    bool   // nodes: later processes may have less
	busy       int    // nodes: operations that a busybody of each replica has under way, at most
	lasting    bool   // nodes: in the end some processes crash, and are not started again
	valueBytes int    // nodes: length of values, at most
	noEvict    bool   // nodes: nothing is evicted; operations that find no room are given up
}

// simClientsMax bounds the operations that can be under way at once: with more, some histories take the checker minutes.
const simClientsMax = 10

// simKinds is the number of history's kinds.
const simKinds = int(history.Flush) + 1

// simLaneMax is the number of lanes in which there are keys.
const simLaneMax = 4

func drawSimConfig(seed uint64, random *rand.Rand) simConfig {
	c := simConfig{seed: seed, nodes: random.IntN(12) == 0}
	c.replicas = pick(random, 1, 2, 2, 3, 3, 3, 3, 3, 3, 4, 4, 5)
	c.lanes = pick(random, 1, 1, 2)
	c.keys = c.lanes + random.IntN(3)
	c.clients = 1 + random.IntN(min(3, simClientsMax/c.replicas))
	c.ops = (60 + random.IntN(160)) / (c.replicas * c.clients)
	c.drawWeights(random)
	c.timing = Timing{Probe: 1 + random.Uint64N(8), Yield: 1 + random.Uint64N(4), Clock: 1 + random.Uint64N(3)}
	if random.IntN(3) == 0 {
		c.timing.Timeout = pick(random, uint64(10), 25, 60)
		c.unknown = random.IntN(3) == 0
	}
	c.delay = pick(random, uint64(2), 10, 30)
	c.uneven = random.IntN(3) == 0
	c.tail = pick(random, 0, 0, 20, 5)
	c.tick = pick(random, c.delay/2+1, c.delay*2, c.delay*8)
	c.think = pick(random, uint64(1), c.delay, c.delay*5)
	some := func(means ...uint64) uint64 {
		if random.IntN(2) == 0 {
			return 0
		}
		return pick(random, means...) * c.delay
	}
	c.breaks = some(10, 30, 100)
	c.pauses = some(30, 100)
	c.refusals = some(30, 100)
	c.evictions = some(3, 10, 30)
	if random.IntN(4) == 0 {
		c.full = pick(random, 3, 20)
	}
	c.skew = random.IntN(2) == 0
	switch {
	case c.nodes:
		c.fitNodes(random)
	case random.IntN(2) == 0:
		c.drawViews(random)
	case random.IntN(10) == 0:
		c.makeBrittle()
	}
	return c
}

// makeBrittle makes the configuration one in which connections break all the time, and keys are gone more often than not: what clocks,
// MARK, D and tombstones are for.
func (c *simConfig) makeBrittle() {
	n := 2 + c.replicas%2
	*c = simConfig{seed: c.seed, replicas: n, lanes: 1, keys: 2 + c.keys%2, clients: 6 - n, ops: 60 / n, timing: c.timing, tick: c.tick,
		delay: c.delay, tail: 2, think: 1, breaks: 8 * c.delay}
	c.timing.Timeout = 0
	c.weights[history.Set], c.weights[history.Add], c.weights[history.Delete], c.weights[history.Gets] = 3, 6, 3, 6
}

// fitNodes makes the configuration one for whole nodes: memory is what is scarce, and the node itself refuses, evicts and sweeps.
func (c *simConfig) fitNodes(random *rand.Rand) {
	c.replicas = pick(random, 2, 3, 3, 4)
	c.lanes = pick(random, 1, 2, simLaneMax)
	c.keys = c.lanes + random.IntN(12)
	c.ops *= 2
	c.refusals, c.full = 0, 0
	c.valueBytes = pick(random, 40, 300, 600, 3000, 7000)
	if c.noEvict = random.IntN(6) == 0; c.noEvict {
		c.timing.Timeout = 60
	}
}

// drawWeights draws how often each command is used. Some are not used at all.
func (c *simConfig) drawWeights(random *rand.Rand) {
	for k := range c.weights {
		c.weights[k] = pick(random, 0, 1, 3, 10)
	}
	c.weights[history.Gets] += 2
	c.weights[history.Set] += pick(random, 0, 2, 8) // a group in which nobody sets lives on add
	c.weights[history.Add] += pick(random, 1, 4)
	c.weights[history.Flush] = pick(random, 0, 0, 1, 3)
	if random.IntN(2) == 0 { // keys that live long, so that read-modify-writes meet on values
		c.weights[history.Set] += 10
		c.weights[history.Delete], c.weights[history.Flush], c.rareExpiry = min(c.weights[history.Delete], 1), 0, true
	}
}

func pick[T any](random *rand.Rand, of ...T) T { return of[random.IntN(len(of))] }

// String tells what the seed has drawn, in one line.
func (c *simConfig) String() string {
	var b strings.Builder
	what := "lanes over fake stores"
	if c.nodes {
		what = fmt.Sprintf("nodes over tables, values to %d bytes", c.valueBytes)
	}
	fmt.Fprintf(&b, "%d replicas (%s), %d keys in %d lanes, %dx%d operations each; probe=%d yield=%d clock=%d timeout=%d ticks of %d steps, messages take %d",
		c.replicas, what, c.keys, c.lanes, c.clients, c.ops, c.timing.Probe, c.timing.Yield, c.timing.Clock, c.timing.Timeout, c.tick, c.delay)
	if c.nodes {
		for _, f := range []struct {
			name string
			is   bool
		}{{"no evictions", c.noEvict}, {"larger memory at first", c.memory > simMemory}, {"less memory later", c.shrinks}, {"losses for good", c.lasting}} {
			if f.is {
				b.WriteString(", " + f.name)
			}
		}
		fmt.Fprintf(&b, ", busybodies %d, chunks %d", c.busy, c.chunk)
	}
	for _, f := range []struct {
		name string
		mean uint64
	}{{"breaks", c.breaks}, {"pauses", c.pauses}, {"refusals", c.refusals}, {"evictions", c.evictions}, {"crashes", c.crashes}, {"partitions", c.partitions}, {"leaves", c.leaves}, {"full", uint64(c.full)}} {
		if f.mean != 0 {
			fmt.Fprintf(&b, ", %s=%d", f.name, f.mean)
		}
	}
	if c.dynamic {
		fmt.Fprintf(&b, "; heartbeats every %v, lease %v, suspected after %v, unreachable after %v, drift %v", c.views.Heartbeat, c.views.Lease, c.views.SuspectAfter,
			c.views.Unreachable, c.views.Drift)
		if c.witness {
			b.WriteString(", a witness")
		}
	}
	return b.String()
}
