package replication

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"reflect"
	"slices"
	"strings"
	"testing"

	"hermesd/table"
)

// This file holds what the explorer and the scenarios share: a replica that can be copied, and the canonical digest of its state.

// replica is one member with one lane, its store, and what the last input has put out.
type replica struct {
	self   Member
	lane   *Lane
	items  *fakeStore
	unique uint64
	refuse bool // Admit refuses

	sent []sent
	done []*Op

	digest uint64         // of the state, 0: not known
	memory *replicaMemory // where it is a part of one
}

type sent struct {
	to uint8
	m  *Message
}

func (r *replica) Send(to uint8, m *Message) { r.sent = append(r.sent, sent{to, copyMessage(m)}) }
func (r *replica) Done(op *Op)               { r.done = append(r.done, op) }
func (r *replica) Admit(int, int) bool       { return !r.refuse }
func (r *replica) Unique() uint64            { r.unique++; return r.unique }
func (r *replica) Now() uint64               { return r.lane.tick }

// copyMessage makes a message that nobody changes any more.
func copyMessage(m *Message) *Message {
	c := *m
	c.Key, c.Value = slices.Clone(m.Key), slices.Clone(m.Value)
	return &c
}

// eager is the Timing in which every tick does whatever a tick can do, so that the state need not hold times.
var eager = Timing{Probe: 1, Yield: 1, Clock: 1}

// newReplicas returns a group without channels. Each one's unique numbers count from 1.
func newReplicas(n int, timing Timing) []*replica {
	v := View{Epoch: 1}
	for i := 1; i <= n; i++ {
		v.Members = append(v.Members, Member{Number: uint8(i), Incarnation: uint64(100 + i)})
	}
	rs := make([]*replica, n)
	for i := range rs {
		r := &replica{self: v.Members[i], items: &fakeStore{}}
		r.lane = NewLane(0, r, r.items, anySize{}, timing)
		v.Self = r.self
		r.lane.SetView(v)
		rs[i] = r
	}
	return rs
}

// clone copies a replica. The original must not be given another input: the copy shares its read-only memory.
func (r *replica) clone() *replica { return r.cloneInto(new(replicaMemory)) }

// replicaMemory is a replica in one piece.
type replicaMemory struct {
	replica
	lane  Lane
	items fakeStore
}

// cloneInto is clone with the copy's memory given. It may be that of a copy that nobody needs any more.
func (r *replica) cloneInto(c *replicaMemory) *replica {
	slots, free, recs := c.lane.flight.slots[:0], c.lane.flight.free[:0], c.items.recs[:0]
	c.items = *r.items
	c.items.recs = append(recs, r.items.recs...)
	c.replica = replica{self: r.self, lane: &c.lane, items: &c.items, unique: r.unique, refuse: r.refuse, memory: c}
	l := &c.lane
	*l = *r.lane
	l.env, l.items = &c.replica, &c.items
	l.out, l.scratch, l.scan.keys = Message{}, nil, nil
	for _, op := range r.lane.flight.slots {
		if op != nil {
			op = cloneOp(op)
		}
		slots = append(slots, op)
	}
	l.flight.slots, l.flight.free = slots, append(free, r.lane.flight.free...)
	if l.flight.byKey != nil {
		l.flight.chainAll()
	}
	l.tombs.pending = slices.Clone(r.lane.tombs.pending)
	for i := range l.tombs.pending { // key buffers are used again, and must not be shared
		l.tombs.pending[i].key = slices.Clone(l.tombs.pending[i].key)
	}
	l.queues = cloneQueues(&r.lane.queues)
	return &c.replica
}

// cloneOp shares key and values, which an op in flight or in a queue only reads, and leaves the buffers to the original.
func cloneOp(op *Op) *Op {
	c := *op
	c.owned, c.built, c.next = nil, nil, nil
	c.Result.Value = nil
	if len(op.Result.Value) > 0 { // what a gat under way will answer
		c.Result.Value = slices.Clone(op.Result.Value)
	}
	return &c
}

func cloneQueues(qs *queues) queues {
	c := queues{waiting: qs.waiting, await: qs.await, byHash: make(map[uint64]*keyQueue)}
	for q := qs.first; q != nil; q = q.next {
		n := new(keyQueue)
		*n = *q
		n.key, n.head, n.tail = slices.Clone(q.key), nil, nil
		for op := q.head; op != nil; op = op.next {
			n.push(cloneOp(op))
		}
		n.chain, n.prev, n.next = c.byHash[q.hash], c.last, nil
		c.byHash[q.hash] = n
		if c.last != nil {
			c.last.next = n
		} else {
			c.first = n
		}
		c.last = n
	}
	return c
}

// cloned are the fields that clone and encode know. TestCloneKnowsAllFields makes whoever adds one think of them.
var cloned = []struct {
	of     any
	fields string
}{
	{Lane{}, "number self env items limits timing epoch members peers serving open clock heard unmarked dropped floor tick lastAsked catching join scan flight queues tombs refuse found steps out scratch"},
	{flight{}, "slots free byKey attempt count replays oldest"},
	{queues{}, "byHash first last free waiting await"},
	{keyQueue{}, "hash key head tail since wait yield yieldUntil chain prev next"},
	{tombs{}, "pending stable asked"},
	{tomb{}, "hash ts key"},
	{join{}, "streamer cursor token asked complete done deleted tombs"},
	{scan{}, "active cursor keys"},
	{floor{}, "ts invalid finisher"},
	{Op{}, "Kind Hash Key Value Flags Exptime CAS Delta Now Client Tag Result ts id acked item newValue owned built phase minimum replay losses started next"},
	{Message{}, "Kind Bits Lane From Epoch Clock ID TS Newer Finisher Flags Exptime CAS Key Value"},
}

func TestCloneKnowsAllFields(t *testing.T) {
	for _, c := range cloned {
		var names []string
		for _, f := range reflect.VisibleFields(reflect.TypeOf(c.of)) {
			names = append(names, f.Name)
		}
		if got := strings.Join(names, " "); got != c.fields {
			t.Errorf("%T has the fields\n\t%s\nbut replica.clone and encode were written for\n\t%s\nteach them the difference, then change the list", c.of, got, c.fields)
		}
	}
}

// encoder appends the canonical form of states: equal bytes mean states with the same future.
type encoder struct{ b []byte }

func (e *encoder) num(ns ...uint64) {
	for _, n := range ns {
		e.b = binary.AppendUvarint(e.b, n)
	}
}

// fixed is num for what is a hash: eight bytes, without looking for short ones.
func (e *encoder) fixed(n uint64) { e.b = binary.LittleEndian.AppendUint64(e.b, n) }

func (e *encoder) ts(ts table.Timestamp) { e.num(ts.Write, ts.Step) }

func (e *encoder) str(s string) {
	e.num(uint64(len(s)))
	e.b = append(e.b, s...)
}

func (e *encoder) flag(f bool) {
	if f {
		e.b = append(e.b, 1)
	} else {
		e.b = append(e.b, 0)
	}
}

// lane encodes a lane under the Timing eager: ticks are left out.
func (e *encoder) lane(l *Lane) {
	e.num(l.epoch, l.peers, l.serving, l.clock, l.open, l.unmarked)
	e.flag(l.catching)
	if j := &l.join; l.catching {
		e.num(uint64(j.streamer.Number), j.cursor, j.token, uint64(j.tombs))
		e.flag(j.asked)
		e.flag(j.complete)
		e.flag(j.done)
		e.ts(j.deleted)
	}
	e.flag(l.scan.active)
	e.num(l.scan.cursor)
	for p := l.peers; p != 0; p &= p - 1 {
		e.num(l.heard[lowest(p)])
	}
	e.ts(l.dropped)
	e.ts(l.floor.ts)
	e.flag(l.floor.invalid)
	e.num(uint64(l.floor.finisher), l.tombs.stable, l.tombs.asked, uint64(len(l.tombs.pending)))
	for _, t := range l.tombs.pending {
		e.str(string(t.key))
		e.ts(t.ts)
	}
	e.num(l.flight.attempt, uint64(len(l.flight.slots)))
	for _, op := range l.flight.slots {
		if op == nil {
			e.num(0)
			continue
		}
		e.num(1)
		e.op(op)
	}
	for _, slot := range l.flight.free {
		e.num(uint64(slot))
	}
	for q := l.queues.first; q != nil; q = q.next {
		e.str(string(q.key))
		e.num(uint64(q.wait), q.yield)
		for op := q.head; op != nil; op = op.next {
			e.op(op)
		}
		e.num(99)
	}
}

func (e *encoder) op(op *Op) {
	e.flag(op.replay)
	e.num(op.Tag, op.id, op.acked, uint64(op.phase), op.minimum, min(uint64(op.losses), tiredAfter))
	e.ts(op.ts)
	if op.phase != queued {
		e.num(op.item.CAS, uint64(op.item.Exptime), uint64(op.item.State), uint64(op.Result.Status), op.Result.Number)
		e.str(string(op.newValue))
		e.str(string(op.Result.Value))
	}
}

func (e *encoder) items(s *fakeStore) {
	recs := s.recs
	if len(recs) > 1 {
		recs = slices.Clone(recs)
		slices.SortFunc(recs, func(a, b fakeRecord) int { return strings.Compare(a.key, b.key) })
	}
	for i := range recs {
		r := &recs[i]
		e.str(r.key)
		e.ts(r.item.TS)
		e.num(r.item.CAS, uint64(r.item.Exptime), uint64(r.item.Flags), uint64(r.item.State), uint64(r.item.Finisher))
		e.str(r.value)
	}
}

func (e *encoder) message(m *Message) {
	e.num(uint64(m.Kind), uint64(m.Bits), m.Epoch, m.Clock, m.ID)
	e.ts(m.TS)
	e.ts(m.Newer)
	e.num(uint64(m.Finisher), uint64(m.Flags), uint64(m.Exptime), m.CAS)
	e.str(string(m.Key))
	e.str(string(m.Value))
}

var digestSeed = maphash.MakeSeed()

func (e *encoder) sum() uint64 { return maphash.Bytes(digestSeed, e.b) }

// state returns the digest of the replica's state.
func (r *replica) state(e *encoder) uint64 {
	if r.digest == 0 {
		e.b = e.b[:0]
		e.num(r.unique)
		e.flag(r.refuse)
		e.lane(r.lane)
		e.items(r.items)
		r.digest = e.sum() | 1
	}
	return r.digest
}

// peek says what a read of the key would come to here, without changing anything: not readable (the key is invalid),
// or the content that would be answered.
func (r *replica) peek(key string) (it table.Item, value string, st keyState) {
	i := r.items.lookup(key)
	if i >= 0 {
		it, value = r.items.recs[i].item, r.items.recs[i].value
	}
	if i < 0 || r.lane.governed(&it) {
		f := &r.lane.floor
		if f.invalid {
			return table.Item{TS: f.ts, Finisher: f.finisher}, "", keyInvalid
		}
		return table.Item{}, "", keyAbsent
	}
	switch {
	case it.State&table.Invalid != 0:
		return it, value, keyInvalid
	case it.State&table.Tombstone != 0:
		return it, "", keyTombstone
	}
	return it, value, keyValid
}

// copy copies a state, so that the copy can be changed in place.
func (w *world) copy() *world {
	c := *w
	c.links, c.digests, c.ends, c.ways = slices.Clone(w.links), slices.Clone(w.digests), slices.Clone(w.ends), slices.Clone(w.ways)
	c.replicas = make([]*replica, len(w.replicas))
	for i, r := range w.replicas {
		c.replicas[i] = r.clone()
	}
	return &c
}

// show writes the replica's state on one line.
func (r *replica) show(keys []string) string {
	l := r.lane
	s := fmt.Sprintf("%s: clock=%d stable=%d D=%s F=%s", memberName(r.self.Number), l.clock, l.stable(), showTS(l.dropped), showTS(l.floor.ts))
	if l.floor.invalid {
		s += " invalid"
	}
	for _, key := range keys {
		it, value, st := r.peek(key)
		s += fmt.Sprintf(" %s:{%s %s %q", key, [...]string{"absent", "tombstone", "valid", "INVALID"}[st], showTS(it.TS), value)
		if st == keyInvalid {
			s += " finisher=" + memberName(it.Finisher)
		}
		s += "}"
	}
	for _, op := range l.flight.slots {
		if op != nil {
			s += fmt.Sprintf(" flight:%d@%s", op.Tag, showTS(op.ts))
		}
	}
	for q := l.queues.first; q != nil; q = q.next {
		s += fmt.Sprintf(" queue(%s", q.key)
		s += [...]string{untilValid: "", untilClocks: ", waits for clocks", untilRoom: ", waits for room"}[q.wait]
		for set := q.yield; set != 0; set &= set - 1 {
			s += ", yields to " + memberName(lowest(set))
		}
		s += ")"
		for op := q.head; op != nil; op = op.next {
			s += fmt.Sprintf(" %d", op.Tag)
		}
	}
	return s
}

// memberName writes member 1 as a, 2 as b.
func memberName(n uint8) string { return string(rune('a' + n - 1)) }

// showTS writes a time stamp: 2.a is a's plain write of version 2; 2.a+1.b is b's first read-modify-write on it.
func showTS(ts table.Timestamp) string {
	if ts.IsZero() {
		return "0"
	}
	s := fmt.Sprintf("%d.%s", ts.Version(), memberName(uint8(ts.Write)))
	if ts.Step != 0 {
		s += fmt.Sprintf("+%d.%s", ts.Step>>8, memberName(uint8(ts.Step)))
	}
	return s
}

// showMessage writes a message on one line.
func showMessage(m *Message) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v", m.Kind)
	if len(m.Key) > 0 {
		fmt.Fprintf(&b, " %s", m.Key)
	}
	if !m.TS.IsZero() {
		fmt.Fprintf(&b, " %s", showTS(m.TS))
	}
	if m.Kind == FETCH || m.Kind == FETCHED {
		fmt.Fprintf(&b, " %d from %d", m.ID, m.CAS)
	}
	if m.Kind == ENTRY && m.Bits&BitInvalid != 0 {
		fmt.Fprintf(&b, " finisher=%s", memberName(m.Finisher))
	}
	if m.Kind == FETCHED && m.Bits&BitComplete != 0 {
		fmt.Fprintf(&b, " complete D=%s", showTS(m.Newer))
	}
	if m.Kind == NACK || m.Kind == STATE {
		fmt.Fprintf(&b, " newer=%s", showTS(m.Newer))
		if m.Finisher != 0 {
			fmt.Fprintf(&b, " finisher=%s", memberName(m.Finisher))
		}
	}
	if m.Value != nil {
		fmt.Fprintf(&b, " %q", simShort(string(m.Value)))
	}
	for i, name := range []string{"tombstone", "on-absent", "flush", "absent", "tired", "replay", "invalid"} {
		if m.Bits&(1<<i) != 0 {
			fmt.Fprintf(&b, " %s", name)
		}
	}
	if m.Bits&publishedRMW != 0 && m.Kind != FETCHED {
		return b.String() + " rmw"
	}
	fmt.Fprintf(&b, " clock=%d", m.Clock)
	return b.String()
}
