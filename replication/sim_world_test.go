package replication

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"strings"

	"hermesd/bench/history"
	"hermesd/replication/views"
	"hermesd/table"
)

// The simulation runs a whole group from one seed, in virtual time: replicas with their lanes, connections that delay, break and come back,
// clients that record what they ask and are answered, and faults. Nothing in it knows the time of day or depends on the
// order of a map, so that a seed is an execution.
//
//	sim_config_test.go   what a seed draws
//	sim_world_test.go    virtual time, trace, the phases of a run
//	sim_link_test.go     connections between replicas
//	sim_replica_test.go  a replica of bare lanes over fakeStores
//	sim_views_test.go    lives of replicas, views, leases, catching up
//	sim_raft_test.go     the control plane: elections, a log, the real views.Leader
//	sim_node_test.go     a replica that is a Node over a real table
//	sim_nodeviews_test.go the same, whose view changes; credit at the end
//	sim_busy_test.go     clients that fill the memory of nodes
//	sim_client_test.go   clients, and the history
//	sim_fault_test.go    pauses, refusals, evictions
//	sim_check_test.go    what is checked in every step and at the end
//	sim_mutant_test.go   what the simulation must catch; sim_nodemutant_test.go of nodes whose views change
//	sim_test.go          the tests

// sim is one execution.
type sim struct {
	cfg    simConfig
	hooks  simHooks
	random *rand.Rand

	now    uint64 // steps
	events simEvents
	seq    uint64
	ran    int // events

	replicas  []*simReplica
	links     map[[2]int]*simLink // by indices, the lower first; never walked
	clients   []*simClient
	keys      []simKey
	ops       []*simOp           // by Op.Tag
	histories []*history.History // by generation; where views do not change, the first
	paused    []uint64           // by process: the step until which it does nothing
	rates     []int              // by process: how much faster its clock runs, in thousandths
	uniques   []uint64           // by replica: numbers given out, in all its lives
	ballast   map[uint64]int     // by the memory of nodes: items that they begin with
	nodes     []*simNode         // all that there have been
	valid     map[simUpdate]bool // updates that have been valid somewhere

	answered map[string]table.Timestamp // by key: the newest update that a client has been answered, in this generation

	servers      []*simServer
	incarnations uint64
	newest       views.View        // committed
	blocked      map[[2]int]uint64 // from process to process: the step until which nothing comes through
	active       int               // clients that have not finished
	calm         bool              // no new faults
	flying       int               // messages under way
	unknowns     int               // updates whose outcome the checker is not told
	written      uint64            // texts written so far: all differ

	counts simCounts
	digest uint64
	trace  *simTrace
	wrong  string // what is violated
}

// simEvent is something that happens at a replica, or (who < 0) in the world.
type simEvent struct {
	at, seq uint64
	who     int
	run     func()
}

type simEvents []simEvent

func (e simEvents) Len() int { return len(e) }
func (e simEvents) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e simEvents) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *simEvents) Push(x any)   { *e = append(*e, x.(simEvent)) }
func (e *simEvents) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = simEvent{}
	*e = (*e)[:last]
	return x
}

// after makes run happen at replica `who`, some steps from now; while the replica pauses it has to wait.
func (s *sim) after(steps uint64, who int, run func()) { s.at(s.now+steps, who, run) }

func (s *sim) at(step uint64, who int, run func()) {
	s.seq++
	heap.Push(&s.events, simEvent{step, s.seq, who, run})
}

// next makes the next event happen.
func (s *sim) next() {
	e := heap.Pop(&s.events).(simEvent)
	if e.who >= 0 && s.paused[e.who] > e.at {
		e.at = s.paused[e.who] // with its old seq: what has been waiting keeps its order
		heap.Push(&s.events, e)
		return
	}
	s.now = e.at
	s.ran++
	e.run()
}

// around draws a number of steps about the mean, exponentially distributed, as what many independent causes make.
func (s *sim) around(mean uint64) uint64 { return uint64(s.random.ExpFloat64() * float64(mean)) }

// chance is true once in n times; never if n is 0.
func (s *sim) chance(n int) bool { return n > 0 && s.random.IntN(n) == 0 }

// fail notes the first violation.
func (s *sim) fail(format string, args ...any) {
	if s.wrong == "" {
		s.wrong = fmt.Sprintf("step %d: ", s.now) + fmt.Sprintf(format, args...)
		s.say("VIOLATED: %s", s.wrong)
	}
}

// mix takes numbers into the digest of the execution.
func (s *sim) mix(ns ...uint64) {
	for _, n := range ns {
		s.digest = (s.digest ^ n) * 0x9E3779B97F4A7C15
		s.digest ^= s.digest >> 29
	}
}

func (s *sim) mixBytes(b []byte) {
	for _, c := range b {
		s.digest = (s.digest ^ uint64(c)) * 1099511628211
	}
}

// simTrace is the execution in words: all of it, or the last lines.
type simTrace struct {
	lines []string
	last  int // lines to keep; 0: all
}

func (s *sim) say(format string, args ...any) {
	t := s.trace
	if t == nil {
		return
	}
	t.lines = append(t.lines, fmt.Sprintf("%7d  ", s.now)+fmt.Sprintf(format, args...))
	if t.last > 0 && len(t.lines) >= 2*t.last {
		t.lines = append(t.lines[:0], t.lines[len(t.lines)-t.last:]...)
	}
}

func (t *simTrace) String() string {
	lines := t.lines
	if t.last > 0 && len(lines) > t.last {
		lines = lines[len(lines)-t.last:]
	}
	return strings.Join(lines, "\n")
}

// newSim draws everything from the seed and lets the group come about.
func newSim(seed uint64, hooks simHooks, trace *simTrace) *sim {
	s := &sim{hooks: hooks, random: rand.New(rand.NewPCG(seed, 1)), links: make(map[[2]int]*simLink), trace: trace}
	s.cfg = drawSimConfig(seed, s.random)
	if hooks.config != nil {
		hooks.config(&s.cfg)
	}
	s.histories = []*history.History{history.New(nil)}
	s.paused, s.uniques = make([]uint64, s.processes()), make([]uint64, s.cfg.replicas)
	s.valid, s.blocked = make(map[simUpdate]bool), make(map[[2]int]uint64)
	s.ballast = make(map[uint64]int)
	s.incarnations = 100
	s.answered = make(map[string]table.Timestamp)
	s.drawRates()
	s.say("seed %d: %v", seed, &s.cfg)
	s.keys = simKeys(&s.cfg)
	s.ops = append(s.ops, &simOp{s: s, over: true}) // tag 0: what the simulation does not know of
	if s.cfg.dynamic {
		s.replicas = make([]*simReplica, s.cfg.replicas)
		s.newServers()
		for i := range s.replicas {
			s.birth(i, nil, 0)
		}
		return s
	}
	for i := range s.cfg.replicas {
		s.replicas = append(s.replicas, s.newReplica(i, simMember(i), false))
	}
	for i := range s.replicas {
		for j := range i {
			s.connect(j, i)
		}
	}
	return s
}

// close gives the replicas' memory back.
func (s *sim) close() {
	for _, d := range s.nodes {
		s.counts.starved += int(d.node.counters.stalled.Load())
		if err := d.node.table.Close(); err != nil {
			panic(err)
		}
	}
}

// Bounds of a run: what takes longer will never come to an end.
const (
	simEventsMax = 3_000_000
	simRestTicks = 4000 // from the end of all faults until the group is at rest
)

// run executes the seed and returns what is violated, if anything.
func (s *sim) run() string {
	defer s.close()
	s.until(s.ready, "all replicas to be connected")
	s.startClients()
	s.startBusybodies()
	s.startFaults()
	s.until(func() bool { return s.active == 0 || s.past(s.cfg.horizon()) }, "the clients' operations")
	s.beCalm()
	s.say("no more faults")
	s.until(func() bool { return s.active == 0 && s.atRest() }, "the group to come to rest")
	s.noTimeouts()
	if s.cfg.lasting && s.wrong == "" {
		s.loseForGood()
		s.until(s.atRest, "those who are left to come to rest")
	}
	s.readAll()
	s.readInvalid()
	s.until(func() bool { return s.active == 0 && s.atRest() }, "the last reads")
	if s.wrong == "" {
		s.checkEnd()
	}
	return s.wrong
}

// ready reports whether the group has come about.
func (s *sim) ready() bool {
	if s.cfg.dynamic {
		return s.whole()
	}
	return s.connected()
}

// noTimeouts lets operations wait for as long as it takes: in a calm group nothing may take for ever.
func (s *sim) noTimeouts() {
	for _, r := range s.live() {
		for _, v := range r.lanes {
			v.lane.timing.Timeout = 0
		}
	}
}

// horizon is the number of steps after which faults end even though clients have not finished: under some of them nothing can.
func (c *simConfig) horizon() uint64 {
	if c.dynamic && c.nodes {
		return 4000 * c.delay
	}
	if c.dynamic {
		return 8000 * c.delay // heartbeats go on meanwhile
	}
	return 4000 * max(c.delay, c.tick)
}

func (s *sim) past(step uint64) bool { return s.now > step }

// until lets events happen until cond holds or something is violated.
func (s *sim) until(cond func() bool, what string) {
	deadline := s.now + max(simRestTicks*s.cfg.tick*2, s.cfg.horizon()*2)
	for s.wrong == "" && !cond() {
		if s.ran > simEventsMax || s.now > deadline {
			s.fail("still waiting for %s after %d events: %s", what, s.ran, s.pending())
			return
		}
		s.next()
	}
}

// atRest reports whether nothing is under way and nothing waits.
func (s *sim) atRest() bool {
	if s.flying != 0 || !s.ready() {
		return false
	}
	for _, r := range s.live() {
		if s.paused[r.index] > s.now || r.refuse {
			return false
		}
		for _, v := range r.lanes {
			if !v.lane.Idle() {
				return false
			}
		}
		if d, is := r.drive.(*simNode); is && !d.atRest() {
			return false
		}
	}
	return true
}

// pending tells what has not come to an end.
func (s *sim) pending() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d messages under way", s.flying)
	for _, r := range s.live() {
		if s.cfg.dynamic {
			fmt.Fprintf(&b, "\n  %s is in %v, lease until %d, now %d", r.name(), r.view, r.until, s.local(r.index))
		}
		if d, is := r.drive.(*simNode); is {
			fmt.Fprintf(&b, "\n  %s:%s", r.name(), d.pending())
		}
		for _, v := range r.lanes {
			l := v.lane
			if l.Idle() {
				continue
			}
			fmt.Fprintf(&b, "\n  %s lane %d: clock=%d stable=%d D=%s open=%b unmarked=%b", r.name(), l.number, l.clock, l.stable(), showTS(l.dropped), l.open, l.unmarked)
			for _, op := range l.flight.slots {
				if op != nil {
					fmt.Fprintf(&b, "\n    in flight: %s %s %s acked=%b", opNames[op.Kind], op.Key, showTS(op.ts), op.acked)
				}
			}
			for q := l.queues.first; q != nil; q = q.next {
				it, st := v.peek(string(q.key))
				fmt.Fprintf(&b, "\n    queue of %s (state %d, %s, finisher %d) yield=%b waits for %d:", q.key, st, showTS(it.TS), it.Finisher, q.yield, q.wait)
				for op := q.head; op != nil; op = op.next {
					fmt.Fprintf(&b, " %s", opNames[op.Kind])
				}
			}
			for _, t := range l.tombs.pending {
				fmt.Fprintf(&b, "\n    tombstone %s %s", t.key, showTS(t.ts))
			}
		}
	}
	for _, o := range s.ops {
		if !o.over {
			fmt.Fprintf(&b, "\n  not answered at %s: %v %s", o.replica.name(), o.in.Kind, o.in.Key)
		}
	}
	return b.String()
}
