package replication

import "hermesd/table"

// A time stamp must never fall, also for a key that is no longer stored. This file holds what the lane remembers of such
// keys (design section 4, "Absent keys and tombstones"): the clocks that say which updates can still be under way, D, and the
// tombstones that are not dropped yet.

// hear takes in the clock that every message carries. What a peer sends between a new channel's first message and its MARK may be updates sent
// again, older than clocks that came before: those clocks do not count.
func (l *Lane) hear(m *Message) {
	if m.Clock > l.clock {
		l.clock = m.Clock
	}
	from := m.From.Number
	if m.Kind == MARK {
		l.unmarked &^= bit(from)
	}
	if l.unmarked&bit(from) == 0 && m.Clock > l.heard[from] {
		l.heard[from] = m.Clock
	}
}

// stable is the version up to which every plain write has arrived here from its own writer.
func (l *Lane) stable() uint64 {
	least := l.clock
	for p := l.peers; p != 0; p &= p - 1 {
		if h := l.heard[lowest(p)]; h < least {
			least = h
		}
	}
	return least
}

// clocksMoved does what a greater stable allows.
func (l *Lane) clocksMoved() {
	if l.catching {
		l.takeOver()
	}
	if len(l.tombs.pending) == 0 && l.queues.waiting == 0 {
		return
	}
	if stable := l.stable(); stable != l.tombs.stable || l.incomplete() {
		l.tombs.stable = stable
		l.dropTombs(stable)
		l.drainClocks()
	}
}

// launchOnAbsent starts a read-modify-write on an absent key. Its time stamp is above all that the key ever had, and below every write
// that has not been seen here; where stable lags too far behind for that, the operation waits for the others' clocks.
func (l *Lane) launchOnAbsent(op *Op, it *table.Item, state keyState) progress {
	above := max(l.dropped.Version(), l.floor.ts.Version(), op.minimum)
	if state == keyTombstone {
		above = max(above, it.TS.Version())
	}
	if l.clock <= above {
		l.clock = above + 1
	}
	stable := l.stable()
	if stable <= above {
		l.awaitClocks(op, above+1)
		return blocked
	}
	op.item.State |= table.OnAbsent
	self := uint64(l.self)
	return l.launch(op, table.Timestamp{Write: stable<<8 | self, Step: l.env.Unique()<<8 | self})
}

// awaitClocks makes the key's queue one that is run when the clocks move, and asks for them unless that has been done.
func (l *Lane) awaitClocks(op *Op, version uint64) {
	l.queues.awaits(l.queues.get(op.Hash, op.Key), untilClocks)
	if l.tombs.asked < version {
		l.tombs.asked = version
		l.askClocks()
	}
}

func (l *Lane) askClocks() {
	l.lastAsked = l.tick
	l.out = Message{Kind: CLOCKASK}
	l.broadcast(l.peers)
}

// drainClocks runs what has waited for clocks.
func (l *Lane) drainClocks() {
	if l.queues.await[untilClocks] == 0 {
		return
	}
	for q := l.queues.first; q != nil; {
		next := q.next
		if q.wait == untilClocks {
			l.drain(q)
		}
		q = next
	}
}

// tombs are the valid tombstones that are not dropped yet, oldest first.
type tombs struct {
	pending []tomb
	stable  uint64 // as it was when the tombstones were last looked at
	asked   uint64 // greatest version that clocks were asked for
}

// manyTombs is how many tombstones may come to wait before the others are asked for their clocks at once, and again for each so many more: a tick
// may be long, and tombstones cost memory.
const manyTombs = 256

type tomb struct {
	hash uint64
	ts   table.Timestamp
	key  []byte
}

func (t *tombs) add(hash uint64, key []byte, ts table.Timestamp) {
	n := len(t.pending)
	if n < cap(t.pending) {
		t.pending = t.pending[:n+1] // with the key buffer of an earlier one
	} else {
		t.pending = append(t.pending, tomb{})
	}
	p := &t.pending[n]
	p.hash, p.ts, p.key = hash, ts, append(p.key[:0], key...)
}

// dropTombs drops the tombstones whose version stable has reached: no INV that is older can come any more. One
// that must stay holds back those behind it, which came later.
func (l *Lane) dropTombs(stable uint64) {
	t := &l.tombs
	n, limit := 0, l.droppable()
	for ; n < limit && t.pending[n].ts.Version() <= stable; n++ {
		p := &t.pending[n]
		it := &l.found.dropTombs
		if l.items.Find(p.hash, p.key, it) && it.TS == p.ts && it.State&(table.Tombstone|table.Invalid) == table.Tombstone {
			l.items.Remove(it)
			l.drop(p.ts)
		}
	}
	if n > 0 {
		rest := copyTombs(t.pending, n)
		t.pending = t.pending[:rest]
		l.join.tombs = max(0, l.join.tombs-n)
	}
}

// copyTombs moves the tombstones from n on to the front and their key buffers' former owners to the back, so that the buffers are used again.
func copyTombs(p []tomb, n int) int {
	rest := len(p) - n
	for i := 0; i < rest; i++ {
		p[i], p[n+i] = p[n+i], p[i]
	}
	return rest
}

// drop raises D. The clock goes above it, so that messages under way for other reasons lift
// the others' as well, and a later add need not ask.
func (l *Lane) drop(ts table.Timestamp) {
	if l.incomplete() {
		if l.join.deleted.Less(ts) {
			l.join.deleted = ts // it counts when the lane is complete
		}
	} else if l.dropped.Less(ts) {
		l.dropped = ts
	}
	if l.clock <= ts.Version() {
		l.clock = ts.Version() + 1
	}
}
