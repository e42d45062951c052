package replication

import (
	"fmt"
	"slices"

	"hermesd/table"
)

// What the explorer checks in each state:
//
//   - what clients were answered, and what could be read at each replica now, has an order in which a single memcached would have
//     answered and would be read the same (account: linearizability, so that nothing that was answered or could be read is ever undone), and in
//     which what one replica was asked comes in the order in which it was asked;
//   - an update that is answered is in every replica's memory, or something newer is (durable);
//   - replicas that can read a key hold the same item (agree);
//   - clock, stable, D, F and the time stamp that governs a key never fall, whether the key is stored or not (rises);
//   - a tombstone is dropped only when stable has reached it, and the engine's books are right (sound);
//   - at the end of each execution everything is answered, nothing is left over, and all replicas hold the same (atRest).

// account takes the answers given in a step, and what can be read after it, into the ways.
func (e *explorer) account(w *world) string {
	answered := false
	for _, r := range w.replicas {
		for _, op := range r.done {
			answered = true
			if wrong := e.durable(w, op); wrong != "" {
				return wrong
			}
		}
	}
	var sets [4]int32
	next := append(sets[:0], w.ways...)
	for k, key := range e.keys {
		set := e.judges[k].grow(w.ways[k], w.open)
		if answered {
			if set = e.answers(w, k, set); set == noWay {
				return fmt.Sprintf("not linearizable: no order of what has been asked explains the answers given in this step; before it:\n%v", e.judges[k].sets[w.ways[k]])
			}
		}
		for i, r := range w.replicas {
			it, value, st := r.peek(key)
			if st == keyInvalid || !e.mayServe(w, i) {
				continue
			}
			present := st == keyValid && !it.Expired(exploredNow)
			before := set
			if set = e.judges[k].read(set, present, value); set == noWay {
				return fmt.Sprintf("not linearizable: a read of %s at %s would give %v, which no order explains:\n%v", key, memberName(r.self.Number),
					content{present: present, value: value}, e.judges[k].sets[before])
			}
		}
		next[k] = set
	}
	w.ways = append([]int32(nil), next...)
	if !answered {
		return ""
	}
	for _, r := range w.replicas {
		for _, op := range r.done {
			if bit := uint8(1) << op.Tag; r.goesOn(op) {
				w.late |= bit
			} else {
				w.open &^= bit
				w.late &^= bit
			}
		}
		r.done = nil
	}
	return ""
}

// goesOn reports whether an operation that has been answered is still in flight: its client has been told that nobody knows.
func (r *replica) goesOn(op *Op) bool {
	return op.Result.Status == Unavailable && slices.ContainsFunc(r.lane.flight.slots, func(f *Op) bool { return f != nil && f.Tag == op.Tag })
}

// answers keeps the ways of key k that explain what has been answered.
func (e *explorer) answers(w *world, k int, set int32) int32 {
	for _, r := range w.replicas {
		for _, op := range r.done {
			i := int(op.Tag)
			late := w.late&(1<<i) != 0 // its end, of which nobody is told
			switch q := &e.requests[i]; {
			case q.kind != OpFlush && q.key != e.keys[k] || r.goesOn(op):
			case q.kind == opEvict && op.Result.Status != Deleted, late && op.Result.Status == NotFound, op.Result.Status == Unavailable:
				set = e.judges[k].refuse(set, i)
			default:
				set = e.judges[k].answer(set, i, outcomeOf(op))
			}
		}
	}
	return set
}

func outcomeOf(op *Op) outcome {
	o := outcome{status: op.Result.Status, number: op.Result.Number}
	if o.status == Hit {
		o.value = string(op.Result.Value)
	}
	return o
}

// durable checks that an update that is answered is in every replica's memory, or that something newer is.
func (e *explorer) durable(w *world, op *Op) string {
	if op.ts.IsZero() || op.Kind == opEvict && op.Result.Status != Deleted {
		return ""
	}
	switch op.Result.Status {
	case Stored, Number, Deleted, Touched, Flushed:
	default:
		return ""
	}
	by := slices.IndexFunc(w.replicas, func(r *replica) bool { return slices.Contains(r.done, op) })
	for i, r := range w.replicas {
		if l := w.replicas[by].lane; i != by && l.members[r.self.Number] != r.self || w.dead(i) {
			continue // not in the view in which it is complete
		}
		it, _, _ := r.peek(string(op.Key))
		l := r.lane
		known := !it.TS.Less(op.ts) || !l.floor.ts.Less(op.ts) || l.dropped.Version() >= op.ts.Version()
		if !known {
			return fmt.Sprintf("%v is answered, but %s holds nothing as new as %s", &e.requests[op.Tag], memberName(r.self.Number), showTS(op.ts))
		}
	}
	return ""
}

// invariants are checked in every state, against the state before it.
func (e *explorer) invariants(before, w *world) string {
	for i, r := range w.replicas {
		old := before.replicas[i]
		if old == r {
			continue
		}
		name := memberName(r.self.Number)
		if wrong := r.sound(e.keys); wrong != "" {
			return name + ": " + wrong
		}
		if e.joins && r.lane.dropped.Version() > r.lane.stable() && old.lane.dropped.Less(r.lane.dropped) {
			return fmt.Sprintf("%s: a tombstone of version %d is dropped, but stable is %d", name, r.lane.dropped.Version(), r.lane.stable())
		}
		if wrong := rises(old, r, e.keys); wrong != "" {
			return name + ": " + wrong
		}
	}
	for _, key := range e.keys {
		if wrong := e.agree(w, key); wrong != "" {
			return wrong
		}
	}
	return ""
}

// agree checks that all replicas at which the key can be read hold the same: anything else would let two reads, one after the
// other, go back in time.
func (e *explorer) agree(w *world, key string) string {
	var first *replica
	var firstItem table.Item
	var firstValue string
	var firstState keyState
	for i, r := range w.replicas {
		it, value, st := r.peek(key)
		if st == keyInvalid || !e.mayServe(w, i) && !(r.lane.catching && st == keyValid) {
			continue
		}
		if st == keyTombstone {
			st = keyAbsent
		}
		if first == nil {
			first, firstItem, firstValue, firstState = r, it, value, st
			continue
		}
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
	if b.clock < a.clock || b.dropped.Less(a.dropped) || b.floor.ts.Less(a.floor.ts) || b.stable() < a.stable() && a.peers|b.peers == a.peers {
		return fmt.Sprintf("the clock (%d, now %d), D (%s, now %s), F (%s, now %s) or stable (%d, now %d) has fallen", a.clock, b.clock, showTS(a.dropped),
			showTS(b.dropped), showTS(a.floor.ts), showTS(b.floor.ts), a.stable(), b.stable())
	}
	for _, key := range keys {
		// While a member catches up, D is not in force, though it drops tombstones: what is sent again is stored.
		if was, is := old.governing(key), r.governing(key); is.Less(was) && !b.incomplete() {
			return fmt.Sprintf("the time stamp that governs %s has fallen from %s to %s", key, showTS(was), showTS(is))
		}
	}
	return ""
}

// governing is the time stamp that an update of the key has to exceed: that of the item, or D where none is stored, or F.
func (r *replica) governing(key string) table.Timestamp {
	ts := r.lane.dropped
	if i := r.items.lookup(key); i >= 0 {
		ts = r.items.recs[i].item.TS
	}
	if ts.Less(r.lane.floor.ts) {
		return r.lane.floor.ts
	}
	return ts
}

// sound checks what must hold within one replica in every state.
func (r *replica) sound(keys []string) string {
	l := r.lane
	if l.dropped.Version() > l.stable() && l.epoch == 1 { // a later view may have members that have not been heard yet
		return fmt.Sprintf("a tombstone of version %d is dropped, but stable is %d", l.dropped.Version(), l.stable())
	}
	if wrong := l.consistent(); wrong != "" {
		return wrong
	}
	for _, op := range l.flight.slots {
		if op == nil {
			continue
		}
		// A read-modify-write is in flight exactly as long as its key is at it: it is outranked at once by anything newer.
		if it, _, st := r.peek(string(op.Key)); op.isRMW() && !op.replay && (st != keyInvalid || it.TS != op.ts || it.Finisher != l.self) {
			return fmt.Sprintf("operation %d is in flight at %s, but its key is at %s", op.Tag, showTS(op.ts), showTS(it.TS))
		}
	}
	for _, key := range keys {
		it, _, st := r.peek(key)
		if st == keyInvalid && it.TS != l.floor.ts && it.Finisher == l.self && !l.finishes(it.TS) {
			return fmt.Sprintf("%s waits for an update of its own at %s that is not in flight", key, showTS(it.TS))
		}
		if st == keyInvalid && it.Finisher == 0 {
			return fmt.Sprintf("%s is invalid at %s, and nobody finishes it", key, showTS(it.TS))
		}
	}
	return ""
}

// consistent checks the lane's bookkeeping.
func (l *Lane) consistent() string {
	waiting := 0
	for q := l.queues.first; q != nil; q = q.next {
		if q.head == nil && q.yield == 0 || q.head == nil && q.wait != untilValid {
			return fmt.Sprintf("an empty queue of %s is kept", q.key)
		}
		if l.queues.find(q.hash, q.key) != q {
			return fmt.Sprintf("the queue of %s is not found", q.key)
		}
		for op := q.head; op != nil; op = op.next {
			waiting++
			if op.phase != queued {
				return fmt.Sprintf("operation %d waits in phase %d", op.Tag, op.phase)
			}
		}
	}
	waits := l.queues.await
	for q := l.queues.first; q != nil; q = q.next {
		waits[q.wait]--
	}
	if waits != [3]int32{} {
		return fmt.Sprintf("the counts of what queues wait for are off by %v", waits)
	}
	flying, replays := 0, 0
	for _, op := range l.flight.slots {
		if op == nil {
			continue
		}
		flying++
		replays += b2i(op.replay)
		if op.chained() && l.flight.rmw(op.Hash, op.Key, op.ts) != op {
			return fmt.Sprintf("operation %d is in flight at %s, but is not found by its key", op.Tag, showTS(op.ts))
		}
	}
	if replays != l.flight.replays {
		return fmt.Sprintf("%d replays are in flight (counted %d)", replays, l.flight.replays)
	}
	if waiting != l.queues.waiting || flying != l.flight.count || flying+len(l.flight.free) != len(l.flight.slots) {
		return fmt.Sprintf("%d operations wait (counted %d), %d are in flight (counted %d, %d slots, %d free)", waiting, l.queues.waiting, flying, l.flight.count,
			len(l.flight.slots), len(l.flight.free))
	}
	return ""
}

// finishes reports whether an update with the time stamp is in flight here.
func (l *Lane) finishes(ts table.Timestamp) bool {
	for _, op := range l.flight.slots {
		if op != nil && op.ts == ts {
			return true
		}
	}
	return false
}

// isEnd reports whether nothing but ticks and breaks can happen any more.
func isEnd(as []action) bool {
	for _, a := range as {
		if a.what != doTick && a.what != doDown && a.what != doCrash {
			return false
		}
	}
	return true
}

// atRest checks a state in which nothing is under way: after some ticks everything is answered and nothing is kept for
// later, and all replicas can read all keys and agree.
func (e *explorer) atRest(w *world, as []action) (wrong string) {
	if !isEnd(as) || e.anyDown(w) {
		return ""
	}
	defer func() {
		if p := recover(); p != nil {
			wrong = fmt.Sprint("panic at the end: ", p)
		}
	}()
	c := w.copy()
	check := func(c *world) string {
		if wrong := e.account(c); wrong != "" {
			return wrong
		}
		for _, r := range c.replicas {
			if c.without(r) {
				continue
			}
			if wrong := r.sound(e.keys); !e.clientsOnly && wrong != "" {
				return wrong
			}
		}
		return ""
	}
	if wrong := e.settle(c, check); wrong != "" {
		return "at the end: " + wrong
	}
	if left := c.open &^ c.late &^ e.lost(c); left != 0 {
		return fmt.Sprintf("at the end: requests %06b are not answered", left)
	}
	return e.readAll(c)
}

// readAll reads every key at every replica, and checks that nothing is left over.
func (e *explorer) readAll(c *world) string {
	for _, key := range e.keys {
		var first *Op
		for i, r := range c.replicas {
			if c.without(r) {
				continue
			}
			get := request{at: i, kind: OpGet, key: key}
			r.submit(&get, 0, 0)
			c.collect(i)
		}
		if wrong := e.settle(c, func(*world) string { return "" }); wrong != "" {
			return "reading at the end: " + wrong
		}
		for i, r := range c.replicas {
			if c.without(r) {
				continue
			}
			if len(r.done) == 1 && first == nil {
				first = r.done[0]
			}
			if len(r.done) != 1 || r.done[0].Result.Status != first.Result.Status || string(r.done[0].Result.Value) != string(first.Result.Value) {
				return fmt.Sprintf("at the end a get of %s at %s has %d answers, or another than at a", key, memberName(uint8(i+1)), len(r.done))
			}
		}
		for _, r := range c.replicas {
			r.done = nil
		}
	}
	for i, r := range c.replicas {
		if e.clientsOnly {
			break
		}
		if c.without(r) {
			continue
		}
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
