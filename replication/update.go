package replication

import (
	"bytes"
	"math/bits"

	"hermesd/table"
)

// flight holds the records of the lane's own updates in flight, by slot. An id names a slot and the attempt that uses it, so that a late
// acknowledgement of an earlier attempt finds nothing.
type flight struct {
	slots   []*Op
	free    []uint32
	byKey   []*Op // read-modify-writes by hash, chained by Op.next
	attempt uint64
	count   int
	replays int    // of them, of others' updates
	oldest  uint64 // no client of an update in flight has waited since before this time, of Env.Now
}

const slotBits = 20

// maxInFlight bounds the updates of keys in flight in a lane: more wait as if for room, and evictions are not begun. The slots beyond it
// are for flushes.
const maxInFlight = 1<<slotBits - 1<<10

func (f *flight) add(op *Op) {
	var slot uint32
	if n := len(f.free); n > 0 {
		slot = f.free[n-1]
		f.free = f.free[:n-1]
	} else {
		slot = uint32(len(f.slots))
		f.slots = append(f.slots, nil)
	}
	f.slots[slot] = op
	if f.count == 0 || op.started < f.oldest {
		f.oldest = op.started
	}
	f.attempt++
	f.count++
	if op.replay {
		f.replays++
	}
	op.id = f.attempt<<slotBits | uint64(slot)
	if !op.chained() {
		return
	}
	if len(f.byKey) < len(f.slots) {
		f.chainAll()
	} else {
		f.chain(op)
	}
}

func (f *flight) get(id uint64) *Op {
	slot := id & (1<<slotBits - 1)
	if slot >= uint64(len(f.slots)) || f.slots[slot] == nil || f.slots[slot].id != id {
		return nil
	}
	return f.slots[slot]
}

// replace puts rec, a copy of op, in its place.
func (f *flight) replace(op, rec *Op) {
	f.slots[op.id&(1<<slotBits-1)] = rec
	if op.chained() {
		*f.link(op) = rec
		op.next = nil
	}
}

func (f *flight) remove(op *Op) {
	slot := uint32(op.id & (1<<slotBits - 1))
	f.slots[slot] = nil
	f.free = append(f.free, slot)
	f.count--
	if op.replay {
		f.replays--
	}
	if op.chained() {
		*f.link(op) = op.next
		op.next = nil
	}
}

// rmw returns the read-modify-write of a key that is in flight under a time stamp, or nil. The key counts: time stamps of different keys of a lane
// can be equal, where both stand on an add at the same version.
func (f *flight) rmw(hash uint64, key []byte, ts table.Timestamp) *Op {
	if len(f.byKey) == 0 {
		return nil
	}
	op := *f.head(hash)
	for op != nil && (op.Hash != hash || op.ts != ts || !bytes.Equal(op.Key, key)) {
		op = op.next
	}
	return op
}

// head is where the chain of a hash begins. The lane's keys differ in the low bits.
func (f *flight) head(hash uint64) **Op { return &f.byKey[hash&uint64(len(f.byKey)-1)] }

func (f *flight) chain(op *Op) {
	head := f.head(op.Hash)
	op.next, *head = *head, op
}

// chainAll makes the chains anew, as many as there are slots or more.
func (f *flight) chainAll() {
	f.byKey = make([]*Op, max(16, 2<<bits.Len(uint(len(f.slots)))))
	for _, op := range f.slots {
		if op != nil && op.chained() {
			f.chain(op)
		}
	}
}

// link returns the place that points to op in its chain.
func (f *flight) link(op *Op) **Op {
	p := f.head(op.Hash)
	for *p != op {
		p = &(*p).next
	}
	return p
}

// launch starts the update that op has computed: it is applied here, invalid, and sent to every other member. In a group
// of one it is complete at once.
func (l *Lane) launch(op *Op, ts table.Timestamp) progress {
	if l.peers == 0 {
		return l.commitAlone(op, ts)
	}
	if l.flight.count >= maxInFlight || op.item.State&table.Tombstone == 0 && !l.env.Admit(len(op.Key), len(op.newValue)) {
		if op.Kind != opEvict {
			l.queues.awaits(l.queues.get(op.Hash, op.Key), untilRoom)
		}
		return blocked
	}
	if op.phase == idle {
		l.begin(op)
		if op.Kind == OpSet || op.Kind == OpAdd || op.Kind == OpReplace || op.Kind == OpCAS {
			op.newValue = op.Value
		}
	}
	op.item.TS = ts
	op.item.State |= table.Invalid
	op.item.Finisher = l.self
	if err := l.write(op); err != nil {
		op.Result = Result{Status: OutOfMemory, Value: op.Result.Value}
		return finished
	}
	if v := ts.Version(); v > l.clock {
		l.clock = v
	}
	op.ts, op.acked, op.phase = ts, 0, inFlight
	l.flight.add(op)
	l.inv(op)
	l.broadcast(l.peers)
	l.traceUpdate(StepStart, op)
	return launched
}

// write puts the op's item in the table. A tombstone takes the place of the item that it deletes and needs no memory.
func (l *Lane) write(op *Op) error {
	return l.put(op.Hash, op.Key, &op.item, op.newValue)
}

func (l *Lane) put(hash uint64, key []byte, it *table.Item, value []byte) error {
	if it.State&table.Tombstone == 0 {
		return l.items.Put(hash, key, it, value)
	}
	old := &l.found.put
	if !l.items.Find(hash, key, old) {
		return l.items.Put(hash, key, it, nil)
	}
	old.TS, old.CAS, old.Exptime, old.Flags, old.State, old.Finisher = it.TS, it.CAS, it.Exptime, it.Flags, it.State, it.Finisher
	return l.items.Update(old)
}

// commitAlone is launch with nobody to wait for.
func (l *Lane) commitAlone(op *Op, ts table.Timestamp) progress {
	l.traceUpdate(StepAlone, op)
	if v := ts.Version(); v > l.clock {
		l.clock = v
	}
	if op.item.State&table.Tombstone != 0 {
		it := &l.found.commitAlone
		if l.items.Find(op.Hash, op.Key, it) {
			l.items.Remove(it)
		}
		l.drop(ts)
		return finished
	}
	op.item.TS, op.item.State = ts, 0 // valid at once
	if err := l.write(op); err != nil {
		op.Result = Result{Status: OutOfMemory, Value: op.Result.Value}
	}
	return finished
}

// inv makes l.out the INV of op's update.
func (l *Lane) inv(op *Op) {
	l.out = Message{Kind: INV, ID: op.id, TS: op.ts}
	if op.Kind == OpFlush {
		l.out.Bits = BitFlush
		if op.replay {
			l.out.Bits |= BitReplay
		}
		return
	}
	l.out.Key, l.out.Value = op.Key, op.newValue
	l.out.Flags, l.out.Exptime, l.out.CAS = op.item.Flags, op.item.Exptime, op.item.CAS
	l.out.Bits = stateBits(op.item.State)
	if op.losses >= tiredAfter {
		l.out.Bits |= BitTired
	}
	if op.replay {
		l.out.Bits |= BitReplay
	}
}

// tiredAfter is the number of lost attempts after which a read-modify-write asks the others to hold back.
const tiredAfter = 2

func stateBits(s table.State) (b uint8) {
	if s&table.Tombstone != 0 {
		b |= BitTombstone
	}
	if s&table.OnAbsent != 0 {
		b |= BitOnAbsent
	}
	return b
}

// onACK counts an acknowledgement. An attempt that was outranked has lost its id, so that late ones find nothing.
func (l *Lane) onACK(m *Message) {
	op := l.flight.get(m.ID)
	if op == nil || op.ts != m.TS {
		return
	}
	op.acked |= bit(m.From.Number)
	if op.acked&l.peers == l.peers {
		l.complete(op, m.From.Number)
	} else {
		l.traceACK(op, m.From.Number, false)
	}
}

// complete ends an update that every member of the view has: it is answered, and if the key is still at it, validated. last is who was the
// last to acknowledge it, or 0 if others are gone.
func (l *Lane) complete(op *Op, last uint8) {
	l.flight.remove(op)
	if op.Kind == OpFlush {
		l.completeFlush(op)
		return
	}
	it := &l.found.complete
	current := l.find(op.Hash, op.Key, it) == keyInvalid && it.TS == op.ts && (!op.replay || it.Finisher == l.self)
	if current {
		l.validate(op.Hash, op.Key, it)
		l.out = Message{Kind: VAL, TS: op.ts, Key: op.Key}
		l.broadcast(l.peers)
	}
	l.traceACK(op, last, true)
	q := l.queues.find(op.Hash, op.Key)
	l.finish(op)
	if q != nil {
		l.drain(q)
	}
}

// validate makes an invalid item, as found, valid. From then on it does not matter whether it was a read-modify-write on
// an absent key: State is zero for a value that can be read.
func (l *Lane) validate(hash uint64, key []byte, it *table.Item) {
	it.State &= table.Tombstone
	it.Finisher = 0
	if it.State&table.Tombstone == 0 {
		l.mustUpdate(it)
		return
	}
	if l.stable() >= it.TS.Version() && !(l.incomplete() && l.join.asked) {
		l.items.Remove(it)
		l.drop(it.TS)
		return
	}
	l.mustUpdate(it)
	l.tombs.add(hash, key, it.TS)
	if len(l.tombs.pending)%manyTombs == 0 {
		l.askClocks() // sooner than the next tick does
	}
}

// mustUpdate is Update for changes that need no memory.
func (l *Lane) mustUpdate(it *table.Item) {
	if err := l.items.Update(it); err != nil {
		panic("replication: the table refused a change of state: " + err.Error())
	}
}

// finish hands op back to its client.
func (l *Lane) finish(op *Op) {
	if op.replay {
		return // nobody has asked for it
	}
	if l.steps != nil && op.phase == inFlight && op.Kind != opEvict && op.Kind != OpFlush && op.Result.Status != Unavailable {
		l.traceUpdate(StepAnswer, op)
	}
	op.phase = idle
	op.newValue = nil
	l.env.Done(op)
}

// outranked takes a read-modify-write out of flight that a greater time stamp has overtaken: it did not happen, and never will
// under that time stamp. It waits, before all others of its key, until the key is valid, and runs again from the start.
func (l *Lane) outranked(op *Op) *keyQueue {
	l.flight.remove(op)
	if op.replay {
		return l.queues.find(op.Hash, op.Key)
	}
	op.losses++
	if op.Kind == opEvict || op.phase == answered {
		q := l.queues.find(op.Hash, op.Key)
		op.Result.Status = NotFound
		l.finish(op)
		return q
	}
	return l.enqueue(op, true)
}

// outrank takes out of flight the own read-modify-write whose invalid item is about to be overwritten.
func (l *Lane) outrank(hash uint64, key []byte, it *table.Item) {
	if it.State&table.Invalid == 0 || !l.ownRMW(it) {
		return
	}
	if op := l.flight.rmw(hash, key, it.TS); op != nil {
		l.outranked(op)
	}
}
