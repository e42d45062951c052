package replication

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"time"

	"hermesd/table"
)

// The explorer visits every state that a small group can come to: all orders of submitting requests, delivering messages
// (in order on each channel), breaking connections, and ticks. It goes breadth first, so that the execution that it shows for
// a violation is a shortest one.

// exploration is one configuration to explore.
type exploration struct {
	name     string
	replicas int
	prologue []request // run one after the other before the exploration begins
	requests []request // those of one replica are submitted in order
	breaks   int       // connections that break, at any point, with what is under way lost in both directions
	ticks    int       // at any point, besides those that end an execution
	limit    int       // states; 0: none
}

func (x *exploration) keys() []string {
	keys := []string{"k"}
	for _, r := range x.requests {
		if r.kind != OpFlush && !slices.Contains(keys, r.key) {
			keys = append(keys, r.key)
		}
	}
	return keys
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
	digests   []uint64     // of links
	ends      []endState   // at*n+peer
	submitted uint8
	open      uint8 // submitted and not answered
	breaks    int8
	ticks     int8
	ways      []ways // by key
}

// action is a step: what happens to which two members or to which request.
type action struct {
	what verb
	a, b uint8
}

type verb uint8

const (
	doSubmit  verb = iota // request a
	doDeliver             // from a to b
	doDown                // a notices that its connection with b is gone
	doUp                  // a has the new connection with b
	doTick                // at a
)

func (x *exploration) start() *world {
	n := x.replicas
	w := &world{replicas: newReplicas(n, eager), links: make([][]*Message, n*n), digests: make([]uint64, n*n), ends: make([]endState, n*n),
		breaks: int8(x.breaks), ticks: int8(x.ticks)}
	for i, r := range w.replicas {
		for j, peer := range w.replicas {
			if i != j {
				r.lane.PeerUp(peer.self)
			}
		}
		w.collect(i)
	}
	for i := range x.prologue {
		r := w.replicas[x.prologue[i].at]
		r.submit(&x.prologue[i], i, 0)
		w.collect(x.prologue[i].at)
		if wrong := w.settle(func(*world) string { return "" }); wrong != "" {
			panic("prologue: " + wrong)
		}
		r.done = nil
	}
	for range x.keys() {
		w.ways = append(w.ways, ways{})
	}
	for i, key := range x.keys() {
		c := content{cas: -1}
		if it, value, st := w.replicas[0].peek(key); st == keyValid && !it.Expired(exploredNow) {
			c.present, c.value = true, value
		}
		w.ways[i] = ways{{now: c}}
	}
	return w
}

// exploredNow is every replica's clock, in Unix seconds.
const exploredNow = 1000

// submit gives the replica a request. cas is the unique that a cas compares with.
func (r *replica) submit(q *request, tag int, cas uint64) {
	op := &Op{Kind: q.kind, Key: []byte(q.key), Hash: table.Hash([]byte(q.key)), Value: []byte(q.value), Delta: q.delta, CAS: cas, Now: exploredNow, Tag: uint64(tag)}
	if q.dead {
		op.Exptime = 1
	}
	if q.kind == opEvict {
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
func (x *exploration) actions(w *world, as []action) []action {
	n := x.replicas
	var met uint8
	for i := range x.requests {
		at := uint8(1) << x.requests[i].at
		if w.submitted&(1<<i) == 0 && met&at == 0 {
			as = append(as, action{doSubmit, uint8(i), 0})
			met |= at
		}
	}
	for i := range n {
		for j := range n {
			if i == j {
				continue
			}
			mine, theirs := w.ends[i*n+j], w.ends[j*n+i]
			if len(w.links[i*n+j]) > 0 && theirs != endDown {
				as = append(as, action{doDeliver, uint8(i), uint8(j)})
			}
			if mine == endUp && (theirs == endDown || theirs == endUp && w.breaks > 0) {
				as = append(as, action{doDown, uint8(i), uint8(j)})
			}
			if mine == endDown && theirs != endUp {
				as = append(as, action{doUp, uint8(i), uint8(j)})
			}
		}
		if w.ticks > 0 && !w.replicas[i].lane.Idle() {
			as = append(as, action{doTick, uint8(i), 0})
		}
	}
	return as
}

// step returns the world after an action.
func (x *exploration) step(w *world, a action) *world {
	c := *w
	c.replicas = slices.Clone(w.replicas)
	c.links, c.digests, c.ways = slices.Clone(w.links), slices.Clone(w.digests), slices.Clone(w.ways)
	n := x.replicas
	switch a.what {
	case doSubmit:
		q := &x.requests[a.a]
		r := c.touch(q.at)
		c.submitted |= 1 << a.a
		c.open |= 1 << a.a
		r.submit(q, int(a.a), prologueCAS)
		c.collect(q.at)
	case doDeliver:
		link := int(a.a)*n + int(a.b)
		m := c.links[link][0]
		c.links[link], c.digests[link] = c.links[link][1:], 0
		c.touch(int(a.b)).lane.Receive(copyMessage(m))
		c.collect(int(a.b))
	case doDown:
		c.ends = slices.Clone(w.ends)
		in, out := int(a.b)*n+int(a.a), int(a.a)*n+int(a.b)
		if c.ends[in] == endUp {
			c.breaks--
		} else {
			c.cut(out) // both have noticed
		}
		c.ends[out] = endDown
		c.cut(in)
		c.touch(int(a.a)).lane.PeerDown(c.replicas[a.b].self)
		c.collect(int(a.a))
	case doUp:
		c.ends = slices.Clone(w.ends)
		out, in := int(a.a)*n+int(a.b), int(a.b)*n+int(a.a)
		c.ends[out] = endNew
		if c.ends[in] == endNew {
			c.ends[out], c.ends[in] = endUp, endUp
		}
		c.touch(int(a.a)).lane.PeerUp(c.replicas[a.b].self)
		c.collect(int(a.a))
	case doTick:
		c.ticks--
		c.touch(int(a.a)).lane.Tick()
		c.collect(int(a.a))
	}
	return &c
}

// prologueCAS is the unique of the prologue's last value: a's first number.
const prologueCAS = 1<<8 | 1

func (w *world) touch(i int) *replica {
	w.replicas[i] = w.replicas[i].clone()
	return w.replicas[i]
}

func (w *world) cut(link int) { w.links[link], w.digests[link] = nil, 0 }

// collect puts what replica i has sent on its links. What goes to an end that has closed the old channel is lost.
func (w *world) collect(i int) {
	r, n := w.replicas[i], len(w.replicas)
	for _, s := range r.sent {
		to := int(s.to) - 1
		if w.ends[to*n+i] == endDown && w.ends[i*n+to] == endUp {
			continue
		}
		link := i*n + to
		w.links[link], w.digests[link] = append(slices.Clip(w.links[link]), s.m), 0
	}
	r.sent = nil
}

// settle lets an execution end: everything is delivered, and ticks come until nothing changes. It returns what check says of
// the first state that is wrong.
func (w *world) settle(check func(*world) string) string {
	n := len(w.replicas)
	for round := 0; ; round++ {
		if round > 60 {
			return "the group does not come to rest"
		}
		before := w.digest()
		for moved := true; moved; {
			moved = false
			for link, ms := range w.links {
				if len(ms) == 0 {
					continue
				}
				moved = true
				w.links[link], w.digests[link] = ms[1:], 0
				to := link % n
				w.replicas[to].digest = 0
				w.replicas[to].lane.Receive(copyMessage(ms[0]))
				w.collect(to)
				if wrong := check(w); wrong != "" {
					return wrong
				}
			}
		}
		for i, r := range w.replicas {
			r.digest = 0
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

// digest is the state's canonical hash.
func (w *world) digest() uint64 {
	var e, part encoder
	for _, r := range w.replicas {
		e.num(r.state(&part))
	}
	for i, ms := range w.links {
		if w.digests[i] == 0 {
			part.b = part.b[:0]
			for _, m := range ms {
				part.message(m)
			}
			w.digests[i] = part.sum() | 1
		}
		e.num(w.digests[i], uint64(w.ends[i]))
	}
	e.num(uint64(w.submitted), uint64(w.open), uint64(w.breaks), uint64(w.ticks))
	for _, ws := range w.ways {
		for i := range ws {
			e.b = append(e.b, ws[i].encode()...)
		}
		e.num(1 << 20)
	}
	return e.sum()
}

// explored is what came of an exploration.
type explored struct {
	states, steps, ends int
	took                time.Duration
	wrong               string   // what is violated; "": nothing
	trace               []string // a shortest execution that violates it
}

type visited struct {
	parent int32
	by     action
}

// run explores.
func (x *exploration) run() (res explored) {
	began := time.Now()
	first := x.start()
	first.ways = slices.Clone(first.ways)
	all := []visited{{-1, action{}}}
	seen := map[uint64]struct{}{first.digest(): {}}
	type entry struct {
		w  *world
		id int32
	}
	level := []entry{{first, 0}}
	var as []action
	for len(level) > 0 && res.wrong == "" {
		var next []entry
		for _, e := range level {
			as = x.actions(e.w, as[:0])
			if wrong := x.atRest(e.w, as); wrong != "" {
				res.wrong, res.trace = wrong, x.trace(all, e.id, nil)
				break
			}
			res.ends += b2i(isEnd(as))
			for _, a := range as {
				res.steps++
				w, wrong := x.tryStep(e.w, a)
				if wrong != "" {
					res.wrong, res.trace = wrong, x.trace(all, e.id, &a)
					break
				}
				h := w.digest()
				if _, old := seen[h]; old {
					continue
				}
				seen[h] = struct{}{}
				all = append(all, visited{e.id, a})
				next = append(next, entry{w, int32(len(all) - 1)})
			}
			if res.wrong != "" || x.limit > 0 && len(all) > x.limit {
				break
			}
		}
		level = next
		if x.limit > 0 && len(all) > x.limit {
			break
		}
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
func (x *exploration) tryStep(w *world, a action) (next *world, wrong string) {
	defer func() {
		if p := recover(); p != nil {
			wrong = fmt.Sprint("panic: ", p)
		}
	}()
	next = x.step(w, a)
	if wrong = x.account(next); wrong == "" {
		wrong = x.invariants(w, next)
	}
	return next, wrong
}

// account takes the answers given in a step, and what can be read after it, into the ways.
func (x *exploration) account(w *world) string {
	keys := x.keys()
	for _, r := range w.replicas {
		for _, op := range r.done {
			if wrong := durable(w, op, x); wrong != "" {
				return wrong
			}
		}
	}
	for k, key := range keys {
		before := w.ways[k]
		ws := append(ways(nil), before...).grow(x.requests, w.open, key)
		for _, r := range w.replicas {
			for _, op := range r.done {
				i := int(op.Tag)
				switch q := &x.requests[i]; {
				case q.kind != OpFlush && q.key != key:
				case q.kind == opEvict && op.Result.Status != Deleted:
					ws = ws.refuse(i)
				default:
					ws = ws.answer(i, outcomeOf(op))
				}
			}
		}
		if len(ws) == 0 {
			return fmt.Sprintf("not linearizable: no order of what has been asked explains the answers given in this step; before it:\n%v", before)
		}
		for _, r := range w.replicas {
			it, value, st := r.peek(key)
			if st == keyInvalid {
				continue
			}
			present := st == keyValid && !it.Expired(exploredNow)
			if !present {
				value = ""
			}
			left := ws.read(present, value)
			if len(left) == 0 {
				return fmt.Sprintf("not linearizable: a read of %s at %s would give %v, which no order explains:\n%v", key, memberName(r.self.Number),
					content{present: present, value: value}, ws)
			}
			ws = left
		}
		w.ways[k] = ws.unique()
	}
	for _, r := range w.replicas {
		for _, op := range r.done {
			w.open &^= 1 << op.Tag
		}
		r.done = nil
	}
	return ""
}

func outcomeOf(op *Op) outcome {
	o := outcome{status: op.Result.Status, number: op.Result.Number}
	if o.status == Hit {
		o.value = string(op.Result.Value)
	}
	return o
}

// durable checks that an update that is answered is in every replica's memory, or that something newer is.
func durable(w *world, op *Op, x *exploration) string {
	if op.ts.IsZero() || op.Kind == opEvict && op.Result.Status != Deleted {
		return ""
	}
	switch op.Result.Status {
	case Stored, Number, Deleted, Touched, Flushed:
	default:
		return ""
	}
	for _, r := range w.replicas {
		it, _, _ := r.peek(string(op.Key))
		l := r.lane
		known := !it.TS.Less(op.ts) || !l.floor.ts.Less(op.ts) || l.dropped.Version() >= op.ts.Version()
		if !known {
			return fmt.Sprintf("%v is answered, but %s holds nothing as new as %s", &x.requests[op.Tag], memberName(r.self.Number), showTS(op.ts))
		}
	}
	return ""
}

// invariants are checked in every state, against the state before it.
func (x *exploration) invariants(before, w *world) string {
	for i, r := range w.replicas {
		l, name := r.lane, memberName(r.self.Number)
		if l.dropped.Version() > l.stable() {
			return fmt.Sprintf("%s has dropped a tombstone of version %d, but stable is %d", name, l.dropped.Version(), l.stable())
		}
		if wrong := l.consistent(); wrong != "" {
			return name + ": " + wrong
		}
		if old := before.replicas[i]; old != r {
			if wrong := rises(old, r, x.keys()); wrong != "" {
				return name + ": " + wrong
			}
		}
	}
	for _, key := range x.keys() {
		if wrong := w.agree(key); wrong != "" {
			return wrong
		}
	}
	return ""
}

// agree checks that all replicas at which the key can be read hold the same: anything else would let two reads, one after the
// other, go back in time.
func (w *world) agree(key string) string {
	var first *replica
	var firstItem table.Item
	var firstState keyState
	for _, r := range w.replicas {
		it, value, st := r.peek(key)
		if st == keyInvalid {
			continue
		}
		if st == keyTombstone {
			st = keyAbsent
		}
		if first == nil {
			first, firstItem, firstState = r, it, st
			continue
		}
		_, firstValue, _ := first.peek(key)
		if st != firstState || st == keyValid && (it.TS != firstItem.TS || value != firstValue || it.CAS != firstItem.CAS ||
			it.Exptime != firstItem.Exptime || it.Flags != firstItem.Flags) {
			return fmt.Sprintf("%s is readable at %s (state %d, %s, %q) and at %s (state %d, %s, %q)", key, memberName(first.self.Number), firstState,
				showTS(firstItem.TS), firstValue, memberName(r.self.Number), st, showTS(it.TS), value)
		}
	}
	return ""
}

// rises checks that nothing that must not fall has fallen between two states of a replica.
func rises(old, r *replica, keys []string) string {
	a, b := old.lane, r.lane
	if b.clock < a.clock || b.dropped.Less(a.dropped) || b.floor.ts.Less(a.floor.ts) || b.stable() < a.stable() {
		return fmt.Sprintf("the clock (%d, now %d), D (%s, now %s), F (%s, now %s) or stable (%d, now %d) has fallen", a.clock, b.clock, showTS(a.dropped),
			showTS(b.dropped), showTS(a.floor.ts), showTS(b.floor.ts), a.stable(), b.stable())
	}
	for _, key := range keys {
		was, _, _ := old.peek(key)
		is, _, _ := r.peek(key)
		switch {
		case is.TS.IsZero(): // dropped, or below F: what agree and the ways show
		case is.TS.Less(was.TS):
			return fmt.Sprintf("the time stamp of %s has fallen from %s to %s", key, showTS(was.TS), showTS(is.TS))
		case was.TS.IsZero() && is.TS.Version() <= a.dropped.Version():
			return fmt.Sprintf("%s was not stored, and now is with %s, not above D (%s)", key, showTS(is.TS), showTS(a.dropped))
		}
	}
	return ""
}

// consistent checks the engine's bookkeeping.
func (l *Lane) consistent() string {
	waiting := 0
	for q := l.queues.first; q != nil; q = q.next {
		if q.head == nil && q.yield == 0 {
			return fmt.Sprintf("an empty queue of %s is kept", q.key)
		}
		for op := q.head; op != nil; op = op.next {
			waiting++
			if op.phase != queued {
				return fmt.Sprintf("operation %d waits in phase %d", op.Tag, op.phase)
			}
		}
	}
	flying := 0
	for _, op := range l.flight.slots {
		flying += b2i(op != nil)
	}
	if waiting != l.queues.waiting || flying != l.flight.count || flying+len(l.flight.free) != len(l.flight.slots) {
		return fmt.Sprintf("%d operations wait (counted %d), %d are in flight (counted %d, %d slots, %d free)", waiting, l.queues.waiting, flying, l.flight.count,
			len(l.flight.slots), len(l.flight.free))
	}
	return ""
}

// isEnd reports whether nothing but ticks and breaks can happen any more.
func isEnd(as []action) bool {
	for _, a := range as {
		if a.what != doTick && a.what != doDown {
			return false
		}
	}
	return true
}

// atRest checks a state in which nothing is under way: after some ticks everything is answered and nothing is kept for
// later, and all replicas can read all keys and agree.
func (x *exploration) atRest(w *world, as []action) (wrong string) {
	if !isEnd(as) || bits.OnesCount8(w.submitted) != len(x.requests) || slices.Contains(w.ends, endDown) {
		return ""
	}
	defer func() {
		if p := recover(); p != nil {
			wrong = fmt.Sprint("panic at the end: ", p)
		}
	}()
	c := *w
	c.links, c.digests, c.ways = slices.Clone(w.links), slices.Clone(w.digests), slices.Clone(w.ways)
	c.replicas = make([]*replica, len(w.replicas))
	for i, r := range w.replicas {
		c.replicas[i] = r.clone()
	}
	check := func(c *world) string {
		if wrong := x.account(c); wrong != "" {
			return wrong
		}
		return x.invariants(c, c)
	}
	if wrong := c.settle(check); wrong != "" {
		return "at the end: " + wrong
	}
	if c.open != 0 {
		return fmt.Sprintf("at the end: requests %06b are not answered", c.open)
	}
	return x.readAll(&c)
}

// readAll reads every key at every replica, and checks that nothing is left over.
func (x *exploration) readAll(c *world) string {
	for _, key := range x.keys() {
		for i, r := range c.replicas {
			get := request{at: i, kind: OpGet, key: key}
			r.submit(&get, 0, 0)
			c.collect(i)
		}
		if wrong := c.settle(func(*world) string { return "" }); wrong != "" {
			return "reading at the end: " + wrong
		}
		for i, r := range c.replicas {
			if len(r.done) != 1 || r.done[0].Result.Status != c.replicas[0].done[0].Result.Status ||
				string(r.done[0].Result.Value) != string(c.replicas[0].done[0].Result.Value) {
				return fmt.Sprintf("at the end a get of %s at %s has %d answers, or another than at a", key, memberName(uint8(i+1)), len(r.done))
			}
		}
		for _, r := range c.replicas {
			r.done = nil
		}
	}
	for i, r := range c.replicas {
		if !r.lane.Idle() {
			return fmt.Sprintf("at the end %s is not idle: %d in flight, %d waiting, %d tombstones", memberName(uint8(i+1)), r.lane.flight.count,
				r.lane.queues.waiting, len(r.lane.tombs.pending))
		}
		for _, rec := range r.items.recs {
			if rec.item.State != 0 {
				return fmt.Sprintf("at the end %s holds %s in state %d", memberName(uint8(i+1)), rec.key, rec.item.State)
			}
		}
	}
	return ""
}

// trace tells the execution that leads to a state, and one action more.
func (x *exploration) trace(all []visited, id int32, last *action) []string {
	var as []action
	for ; id > 0; id = all[id].parent {
		as = append(as, all[id].by)
	}
	slices.Reverse(as)
	if last != nil {
		as = append(as, *last)
	}
	w := x.start()
	var lines []string
	for _, a := range as {
		lines = append(lines, x.show(w, a))
		next, wrong := x.tryStep(w, a)
		if wrong != "" {
			break
		}
		w = next
	}
	return append(lines, w.show(x.keys())...)
}

func (x *exploration) show(w *world, a action) string {
	names := memberName(a.a+1) + memberName(a.b+1)
	switch a.what {
	case doSubmit:
		return fmt.Sprintf("submit %d %v", a.a, &x.requests[a.a])
	case doDeliver:
		return fmt.Sprintf("deliver %c>%c %s", names[0], names[1], showMessage(w.links[int(a.a)*x.replicas+int(a.b)][0]))
	case doDown:
		return fmt.Sprintf("down %c (with %c)", names[0], names[1])
	case doUp:
		return fmt.Sprintf("up %c (with %c)", names[0], names[1])
	}
	return fmt.Sprintf("tick %c", names[0])
}

func (w *world) show(keys []string) (lines []string) {
	for _, r := range w.replicas {
		l := r.lane
		s := fmt.Sprintf("%s: clock=%d stable=%d D=%s F=%s", memberName(r.self.Number), l.clock, l.stable(), showTS(l.dropped), showTS(l.floor.ts))
		for _, key := range keys {
			it, value, st := r.peek(key)
			s += fmt.Sprintf(" %s:{%s %s %q finisher=%d}", key, [...]string{"absent", "tombstone", "valid", "INVALID"}[st], showTS(it.TS), value, it.Finisher)
		}
		for _, op := range l.flight.slots {
			if op != nil {
				s += fmt.Sprintf(" flight:%d@%s", op.Tag, showTS(op.ts))
			}
		}
		for q := l.queues.first; q != nil; q = q.next {
			s += fmt.Sprintf(" queue(%s yield=%b clock=%v):", q.key, q.yield, q.clock)
			for op := q.head; op != nil; op = op.next {
				s += fmt.Sprintf(" %d", op.Tag)
			}
		}
		lines = append(lines, s)
	}
	for i, ms := range w.links {
		for _, m := range ms {
			lines = append(lines, fmt.Sprintf("under way %s>%s: %s", memberName(uint8(i/len(w.replicas)+1)), memberName(uint8(i%len(w.replicas)+1)), showMessage(m)))
		}
	}
	return lines
}

func (e explored) String() string {
	s := fmt.Sprintf("%d states, %d steps, %d ends in %v", e.states, e.steps, e.ends, e.took.Round(time.Millisecond))
	if e.wrong != "" {
		s += "\n" + e.wrong + "\n  " + strings.Join(e.trace, "\n  ")
	}
	return s
}
