package replication

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"hermesd/table"
)

// The explorer visits every state that a small group can come to: all orders of submitting requests, delivering messages
// (in order on each channel), breaking connections, giving room, and ticks. It goes breadth first, so that the execution that it shows for
// a violation is a shortest one. What is checked in each state is in explore_check_test.go.

// exploration is one configuration to explore.
type exploration struct {
	replicas    int
	prologue    []request               // run one after the other before the exploration begins
	requests    []request               // those of one replica are submitted in order
	breaks      int                     // connections that break, at any point, with what is under way lost in both directions
	ticks       int                     // at any point, besides those that end an execution
	lates       int                     // at any point, a replica's clients are told that their operations have not been finished in time
	unordered   bool                    // channels keep no order, which ours do
	clientsOnly bool                    // only what clients can see is checked
	full        bool                    // there is no room for any item until, at any point and one by one, each replica finds some
	limit       int                     // states; 0: none
	visit       func(*explorer, *world) // is shown every state, if not nil

	// One view change. crash names a replica (1 is a) that ends at any point, or that the others only believe to have ended (expelled), and that the next view is
	// without; joins says that the last replica begins with an empty memory, as a joiner in the next view, and catches up. Each replica enters
	// the view at any point.
	crash    int
	expelled bool
	joins    bool
}

// name says what is explored, on one line.
func (x *exploration) name() string {
	var s []string
	for i := range x.prologue {
		s = append(s, x.prologue[i].String())
	}
	if len(s) > 0 {
		s = append(s, "then")
	}
	for i := range x.requests {
		s = append(s, x.requests[i].String())
	}
	name := fmt.Sprintf("%d replicas, %d breaks, %d ticks: %s", x.replicas, x.breaks, x.ticks, strings.Join(s, " "))
	if x.lates > 0 {
		name = fmt.Sprintf("%d lates, %s", x.lates, name)
	}
	if x.joins {
		name = "the last one joins, " + name
	}
	if x.crash > 0 {
		name = map[bool]string{false: "a crash of ", true: "a removal of "}[x.expelled] + memberName(uint8(x.crash)) + ", " + name
	}
	if x.full {
		name = "full, " + name
	}
	return name
}

// explorer is an exploration under way.
type explorer struct {
	*exploration
	keys    []string
	judges  []*judge // by key
	uniques []uint64 // by key: what a cas compares with

	touched *replica       // in the last step
	spare   *replicaMemory // of a replica in a state that had been seen before
}

// endState is one end of the connection between two members.
type endState uint8

const (
	endUp   endState = iota
	endDown          // this end has noticed the break
	endNew           // this end has the new channel; the other has at least noticed the break
)

// world is one state. Parts that a step does not touch are shared between worlds.
type world struct {
	replicas  []*replica
	links     [][]*Message // from*n+to: under way, oldest first
	digests   []uint64     // of links; 0: not known
	ends      []endState   // at*n+peer
	submitted uint8
	open      uint8 // submitted, and may still take effect
	late      uint8 // of these, those whose clients have been told that nobody knows
	breaks    int8
	ticks     int8
	lates     int8
	gone      uint8   // the number of the replica that is not in the second view
	ended     uint8   // the number of the one that has crashed
	ways      []int32 // by key: the number of a set of ways
}

// action is a step: what happens to which two members or to which request.
type action struct {
	what verb
	a, b uint8
	nth  uint8 // message under way, where channels keep no order
}

type verb uint8

const (
	doSubmit  verb = iota // request a
	doDeliver             // from a to b
	doDown                // a notices that its connection with b is gone
	doUp                  // a has the new connection with b
	doTick                // at a
	doRoom                // a finds room
	doLate                // a's operations are late
	doCrash               // a is gone
	doEnter               // a enters the second view
	doFetch               // a, which catches up, asks b
)

// exploredNow is every replica's clock, in Unix seconds.
const exploredNow = 1000

// noUnique is a cas unique that no item ever has.
const noUnique = 1 << 40

// start returns the explorer and the state in which it begins: the group is connected, and the prologue has been run.
func (x *exploration) start() (*explorer, *world) {
	e := &explorer{exploration: x, keys: keysOf(x.requests)}
	n := x.replicas
	w := &world{replicas: x.replicasAtFirst(), links: make([][]*Message, n*n), digests: make([]uint64, n*n), ends: make([]endState, n*n),
		breaks: int8(x.breaks), ticks: int8(x.ticks), lates: int8(x.lates)}
	for i, r := range w.replicas {
		for j, peer := range w.replicas {
			if i != j {
				r.lane.PeerUp(peer.self) // of its view, if that lists it
			}
			if x.joins && i != j && (i == n-1 || j == n-1) {
				w.ends[i*n+j] = endDown
			}
		}
		w.collect(i)
	}
	e.mustSettle(w)
	for i := range x.prologue {
		r := w.replicas[x.prologue[i].at]
		r.submit(&x.prologue[i], i, noUnique)
		w.collect(x.prologue[i].at)
		e.mustSettle(w)
		r.done = nil
	}
	for _, key := range e.keys {
		c, unique := content{cas: -1}, uint64(noUnique)
		if it, value, st := w.replicas[0].peek(key); st == keyValid && !it.Expired(exploredNow) {
			c.present, c.value, unique = true, value, it.CAS
		}
		j := newJudge(key, x.requests, x.lates == 0 && x.crash == 0)
		e.judges, e.uniques = append(e.judges, j), append(e.uniques, unique)
		w.ways = append(w.ways, j.number(ways{{now: c}}))
	}
	for _, r := range w.replicas {
		r.refuse = x.full
	}
	return e, w
}

func keysOf(requests []request) []string {
	var keys []string
	for i := range requests {
		if r := &requests[i]; r.kind != OpFlush && !slices.Contains(keys, r.key) {
			keys = append(keys, r.key)
		}
	}
	if keys == nil {
		keys = []string{"k"}
	}
	return keys
}

func (e *explorer) mustSettle(w *world) {
	if wrong := w.settle(func(*world) string { return "" }); wrong != "" {
		panic("explorer: the prologue: " + wrong)
	}
}

// nobody is the Client of operations whose ends are seen otherwise.
type nobody struct{}

func (nobody) Done(*Op) Flusher { return nil }

// submit gives the replica a request. cas is the unique that a cas compares with.
func (r *replica) submit(q *request, tag int, cas uint64) {
	op := &Op{Kind: q.kind, Key: []byte(q.key), Hash: table.Hash([]byte(q.key)), Value: []byte(q.value), Delta: q.delta, CAS: cas, Now: exploredNow, Tag: uint64(tag), Client: nobody{}}
	if q.dead {
		op.Exptime = 1
	}
	if q.kind == opEvict {
		op.Client = nil
		var it table.Item
		verdict := table.Keep
		if r.items.Find(op.Hash, op.Key, &it) {
			verdict = r.lane.Evict(op, op.Hash, op.Key, &it)
		}
		if verdict != table.Pending {
			op.Result.Status = NotFound
			r.done = append(r.done, op)
		}
		return
	}
	if r.lane.Submit(op) {
		r.done = append(r.done, op)
	}
}

// actions appends what can happen next.
func (e *explorer) actions(w *world, as []action) []action {
	n := e.replicas
	var met uint8
	for i := range e.requests {
		at := uint8(1) << e.requests[i].at
		if w.submitted&(1<<i) == 0 && met&at == 0 && e.mayServe(w, e.requests[i].at) {
			as = append(as, action{what: doSubmit, a: uint8(i)})
			met |= at
		}
	}
	for i := range n {
		for j := range n {
			if i == j || w.dead(i) && len(w.links[i*n+j]) == 0 || w.dead(j) {
				continue
			}
			mine, theirs := w.ends[i*n+j], w.ends[j*n+i]
			if ms := w.links[i*n+j]; len(ms) > 0 && theirs != endDown && ms[0].Epoch <= w.replicas[j].lane.epoch {
				as = append(as, action{what: doDeliver, a: uint8(i), b: uint8(j)})
				for nth := 1; e.unordered && nth < len(w.links[i*n+j]); nth++ {
					as = append(as, action{what: doDeliver, a: uint8(i), b: uint8(j), nth: uint8(nth)})
				}
			}
			if w.dead(i) || !e.listed(w, i, j) {
				continue
			}
			if mine == endUp && (theirs == endDown || theirs == endUp && w.breaks > 0) || mine == endNew && theirs == endDown && w.breaks > 0 {
				as = append(as, action{what: doDown, a: uint8(i), b: uint8(j)})
			}
			if mine == endDown && theirs != endUp {
				as = append(as, action{what: doUp, a: uint8(i), b: uint8(j)})
			}
		}
		if w.dead(i) {
			continue
		}
		as = e.viewActions(w, i, as)
		if w.ticks > 0 && !w.replicas[i].lane.Idle() {
			as = append(as, action{what: doTick, a: uint8(i)})
		}
		if w.replicas[i].refuse {
			as = append(as, action{what: doRoom, a: uint8(i)})
		}
		if w.lates > 0 && w.replicas[i].lane.flight.count+w.replicas[i].lane.queues.waiting > 0 {
			as = append(as, action{what: doLate, a: uint8(i)})
		}
	}
	return as
}

// step returns the world after an action.
func (e *explorer) step(w *world, a action) *world {
	c := *w
	c.replicas, c.links, c.digests = slices.Clone(w.replicas), slices.Clone(w.links), slices.Clone(w.digests)
	n, at := e.replicas, int(a.a)
	switch a.what {
	case doSubmit:
		q := &e.requests[a.a]
		at = q.at
		c.submitted |= 1 << a.a
		c.open |= 1 << a.a
		unique := uint64(noUnique)
		if i := slices.Index(e.keys, q.key); i >= 0 {
			unique = e.uniques[i]
		}
		e.touch(&c, at).submit(q, int(a.a), unique)
	case doDeliver:
		link := int(a.a)*n + int(a.b)
		m := c.links[link][a.nth]
		if c.digests[link] = 0; a.nth == 0 {
			c.links[link] = c.links[link][1:]
		} else {
			c.links[link] = slices.Delete(slices.Clone(c.links[link]), int(a.nth), int(a.nth)+1)
		}
		at = int(a.b)
		e.touch(&c, at).lane.Receive(copyMessage(m))
	case doDown:
		e.down(&c, at, int(a.b))
	case doUp:
		c.ends = slices.Clone(w.ends)
		out, in := at*n+int(a.b), int(a.b)*n+at
		c.ends[out] = endNew
		if c.ends[in] == endNew {
			c.ends[out], c.ends[in] = endUp, endUp
		}
		e.touch(&c, at).lane.PeerUp(c.replicas[a.b].self)
	case doTick:
		c.ticks--
		e.touch(&c, at).lane.Tick()
	case doRoom:
		e.touch(&c, at).room()
	case doCrash:
		e.crashNow(&c, at)
	case doEnter:
		e.enter(&c, at, 2)
	case doFetch:
		e.touch(&c, at).lane.Fetch(a.b+1, 1)
	case doLate:
		c.lates--
		e.touch(&c, at).expire()
	}
	c.collect(at)
	return &c
}

// room makes the replica find room.
func (r *replica) room() {
	r.refuse = false
	r.lane.AdmitAgain()
}

// expire is a tick at which all operations turn out to be late.
func (r *replica) expire() {
	l := r.lane
	l.tick += 2
	l.timing.Timeout = 1
	l.Tick()
	l.timing.Timeout = 0
}

// down has member at notice that its connection with peer is gone.
func (e *explorer) down(w *world, at, peer int) {
	n := len(w.replicas)
	in, out := peer*n+at, at*n+peer
	if w.ends[in] == endUp || w.ends[out] == endNew {
		w.breaks--
	}
	if w.ends[in] != endUp {
		w.cut(out) // both have noticed
	}
	w.ends = slices.Clone(w.ends)
	w.ends[out] = endDown
	w.cut(in)
	e.touch(w, at).lane.PeerDown(w.replicas[peer].self)
}

// touch gives w a copy of its replica i that may be changed.
func (e *explorer) touch(w *world, i int) *replica {
	m := e.spare
	if e.spare = nil; m == nil {
		m = new(replicaMemory)
	}
	w.replicas[i] = w.replicas[i].cloneInto(m)
	e.touched = w.replicas[i]
	return e.touched
}

func (w *world) cut(link int) { w.links[link], w.digests[link] = nil, 0 }

// collect puts what replica i has sent on its links. What goes to an end that has closed the old channel is lost.
func (w *world) collect(i int) {
	r, n := w.replicas[i], len(w.replicas)
	for _, s := range r.sent {
		to := int(s.to) - 1
		if w.gone == s.to && r.lane.epoch > 1 || w.crashed(s.to) {
			continue
		}
		if w.ends[to*n+i] == endDown && w.ends[i*n+to] == endUp {
			continue
		}
		link := i*n + to
		w.links[link], w.digests[link] = append(slices.Clip(w.links[link]), s.m), 0
	}
	r.sent = nil
}

// settle lets an execution end: everything is delivered, there is room, and ticks come until nothing changes. It returns what check says of
// the first state that is wrong.
func (w *world) settle(check func(*world) string) string {
	for round := 0; ; round++ {
		if round > 60 {
			return "the group does not come to rest"
		}
		before := w.digest()
		if wrong := w.deliverAll(check); wrong != "" {
			return wrong
		}
		for i, r := range w.replicas {
			if w.crashed(r.self.Number) {
				continue
			}
			r.digest = 0
			if r.refuse {
				r.room()
			}
			r.lane.Tick()
			w.collect(i)
			if wrong := check(w); wrong != "" {
				return wrong
			}
		}
		if w.digest() == before {
			return ""
		}
	}
}

// deliverAll delivers until nothing is under way.
func (w *world) deliverAll(check func(*world) string) string {
	for moved := true; moved; {
		moved = false
		for link, ms := range w.links {
			if len(ms) == 0 {
				continue
			}
			moved = true
			w.links[link], w.digests[link] = ms[1:], 0
			to := link % len(w.replicas)
			if w.crashed(w.replicas[to].self.Number) {
				continue
			}
			w.replicas[to].digest = 0
			w.replicas[to].lane.Receive(copyMessage(ms[0]))
			w.collect(to)
			if wrong := check(w); wrong != "" {
				return wrong
			}
		}
	}
	return ""
}

// digest is the state's canonical hash.
func (w *world) digest() uint64 {
	var e, part encoder
	var space [2][256]byte
	e.b, part.b = space[0][:0], space[1][:0]
	for _, r := range w.replicas {
		e.fixed(r.state(&part))
	}
	for i, ms := range w.links {
		if w.digests[i] == 0 {
			part.b = part.b[:0]
			for _, m := range ms {
				part.message(m)
			}
			w.digests[i] = part.sum() | 1
		}
		e.fixed(w.digests[i])
		e.b = append(e.b, byte(w.ends[i]))
	}
	e.b = append(e.b, w.submitted, w.open, w.late, byte(w.breaks), byte(w.ticks), byte(w.lates), w.gone, w.ended)
	for _, set := range w.ways {
		e.fixed(uint64(set))
	}
	return e.sum()
}

// visited is how a state was come to.
type visited struct {
	parent int32
	by     action
}

// run explores.
func (x *exploration) run() (res explored) {
	began := time.Now()
	e, first := x.start()
	all := []visited{{-1, action{}}}
	seen := map[uint64]struct{}{first.digest(): {}}
	type entry struct {
		w  *world
		id int32
	}
	if x.visit != nil {
		x.visit(e, first)
	}
	level := []entry{{first, 0}}
	var as []action
	for len(level) > 0 && res.wrong == "" && !res.limited {
		var next []entry
		for _, at := range level {
			as = e.actions(at.w, as[:0])
			if wrong := e.atRest(at.w, as); wrong != "" {
				res.wrong, res.trace = wrong, x.trace(all, at.id, nil)
				break
			}
			res.ends += b2i(isEnd(as))
			for _, a := range as {
				res.steps++
				w, wrong := e.tryStep(at.w, a)
				if wrong != "" {
					res.wrong, res.trace = wrong, x.trace(all, at.id, &a)
					break
				}
				h := w.digest()
				if _, old := seen[h]; old {
					e.spare = e.touched.memory
					continue
				}
				seen[h] = struct{}{}
				if x.visit != nil {
					x.visit(e, w)
				}
				all = append(all, visited{at.id, a})
				next = append(next, entry{w, int32(len(all) - 1)})
			}
			res.limited = x.limit > 0 && len(all) > x.limit
			if res.wrong != "" || res.limited {
				break
			}
		}
		level = next
	}
	res.states, res.took = len(all), time.Since(began)
	return res
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// tryStep is step with the invariants checked; a panic of the engine is a violation.
func (e *explorer) tryStep(w *world, a action) (next *world, wrong string) {
	defer func() {
		if p := recover(); p != nil {
			wrong = fmt.Sprint("panic: ", p)
		}
	}()
	next = e.step(w, a)
	if wrong = e.account(next); wrong == "" && !e.clientsOnly {
		wrong = e.invariants(w, next)
	}
	return next, wrong
}
