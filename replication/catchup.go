package replication

import (
	"math/bits"

	"hermesd/table"
)

// A member that is new in the group, or new again, has an empty memory. It catches up lane by lane (design section 5, "Joining"): it asks a
// serving member for one chunk of the lane after the other, from a cursor of that member's table, and meanwhile takes part in every update. Entries and
// updates apply by time stamp, in whatever order they come; until the lane is complete D is zero. The serving member keeps nothing about it, so that
// either may die at any moment.
//
// Tombstones outlive the entries that they are newer than: one that is valid has been acknowledged by every member, so what any of them sends for
// a FETCH that it gets later is as new. It may be dropped like others if it was valid before the FETCH was sent whose answer is awaited. (To keep them
// all until the lane is complete would take memory without bound, where others evict meanwhile.) D stays zero even so: an update of a key that
// has not come yet may be of any version. An update sent again for a key whose tombstone is gone is stored then, invalid, and its sender, when it is
// asked, says what became of it. Nobody else does: what another member, or this one, has learnt of its own replay of that update may be of before
// the delete. So the update is validated by its finisher alone.

// join is how far a lane has come in catching up.
type join struct {
	streamer Member // whose cursor it is
	cursor   uint64
	token    uint64          // of the last FETCH: what answers an earlier one does not count
	asked    bool            // its FETCHED has not come
	complete bool            // all entries have come
	done     bool            // and D is taken over
	deleted  table.Timestamp // what D will be: the streamer's, and what has been dropped here
	tombs    int             // of tombs.pending, the first so many were valid before the FETCH was sent whose answer is awaited
}

// interrupt forgets what was asked for and has not come: it may be lost.
func (j *join) interrupt() { j.asked = false }

// Fetch asks a serving member for the lane's next entries, of about so many bytes. It reports whether it has: not if the lane
// is complete, an answer is awaited, or there is no channel. A lane that asks another member than before begins anew.
func (l *Lane) Fetch(from uint8, bytes uint32) bool {
	j := &l.join
	if !l.catching || j.complete || j.asked || l.open&bit(from) == 0 {
		return false
	}
	if j.streamer != l.members[from] {
		j.streamer, j.cursor = l.members[from], 0
	}
	j.token++
	j.asked, j.tombs = true, len(l.tombs.pending)
	l.out = Message{Kind: FETCH, ID: j.token, CAS: j.cursor, Flags: bytes}
	l.send(from)
	return true
}

// streamer is the member to fetch from: the one that has sent the beginning, if it can send the rest, or another that serves; 0: there is none.
func (l *Lane) streamer() uint8 {
	able := l.serving & l.open
	if from := l.join.streamer; from.Number != 0 && l.members[from.Number] == from && able&bit(from.Number) != 0 {
		return from.Number
	}
	if able == 0 {
		return 0
	}
	for skip := int(l.number) % bits.OnesCount64(able); skip > 0; skip-- { // each lane from another
		able &= able - 1
	}
	return lowest(able)
}

// Fetching reports whether an answer to Fetch is awaited.
func (l *Lane) Fetching() bool { return l.catching && l.join.asked }

// Complete reports whether all entries of the lane have come.
func (l *Lane) Complete() bool { return !l.catching || l.join.complete }

// CaughtUp reports whether the lane is ready to serve.
func (l *Lane) CaughtUp() bool { return !l.catching || l.join.done }

// incomplete reports whether D is not in force yet, since entries are still to come.
func (l *Lane) incomplete() bool { return l.catching && !l.join.done }

// droppable is how many of the tombstones that are pending, from the first on, no entry can follow that is older.
func (l *Lane) droppable() int {
	if l.incomplete() && l.join.asked {
		return l.join.tombs
	}
	return len(l.tombs.pending)
}

// fetchSteps bounds the buckets that are looked at for one FETCH: the lane is locked meanwhile.
const fetchSteps = 256

// onFETCH sends a chunk of the lane: first the floor, then the entries from the cursor on.
func (l *Lane) onFETCH(m *Message) {
	if l.catching {
		return
	}
	to, token, cursor, budget := m.From.Number, m.ID, m.CAS, int64(m.Flags)
	if cursor == 0 && !l.floor.ts.IsZero() {
		l.out = Message{Kind: ENTRY, Bits: BitFlush, TS: l.floor.ts}
		if l.floor.invalid {
			l.out.Bits |= BitInvalid
			l.out.Finisher = l.floor.finisher
		}
		l.send(to)
	}
	next, done := l.items.Walk(cursor, fetchSteps, func(key []byte, it *table.Item) bool {
		if l.governed(it) {
			return true // absent, or will be when the flush ends
		}
		l.sendEntry(to, key, it)
		budget -= int64(len(key) + it.ValueLen + recordCost)
		return budget > 0
	})
	l.out = Message{Kind: FETCHED, ID: token, CAS: next}
	if done {
		l.out.Bits, l.out.Newer = BitComplete, l.dropped
	}
	l.send(to)
}

func (l *Lane) sendEntry(to uint8, key []byte, it *table.Item) {
	l.out = Message{Kind: ENTRY, Key: key}
	l.describe(it)
	l.out.TS, l.out.Newer = it.TS, table.Timestamp{}
	if it.State&table.Invalid != 0 {
		l.out.Bits |= BitInvalid
		l.out.Finisher = it.Finisher
	}
	l.send(to)
}

// onENTRY takes a key as it is at the streamer. What is newer here came as an update, and stays.
func (l *Lane) onENTRY(m *Message) {
	if !l.incomplete() {
		return
	}
	if v := m.TS.Version(); v > l.clock {
		l.clock = v
	}
	if m.Bits&BitFlush != 0 {
		l.onFloorENTRY(m)
		return
	}
	if m.TS.Compare(l.floor.ts) <= 0 {
		return
	}
	hash, invalid := table.Hash(m.Key), m.Bits&BitInvalid != 0
	it := &l.found.onENTRY
	if l.items.Find(hash, m.Key, it) && it.TS.Compare(l.floor.ts) > 0 {
		newer := m.TS.Compare(it.TS)
		if newer < 0 || newer == 0 && (invalid || it.State&table.Invalid == 0) {
			return
		}
	}
	*it = messageItem(m)
	it.TS = m.TS
	it.State |= table.Invalid
	it.Finisher = m.Finisher
	l.mustPut(hash, m.Key, it, m.Value)
	switch {
	case !invalid:
		l.revalidate(hash, m.Key)
	case l.gone(m.Finisher):
		l.pursue(hash, m.Key)
	case m.Finisher == l.self && !l.finishing(hash, m.Key, m.TS) && l.find(hash, m.Key, it) == keyInvalid:
		l.replay(hash, m.Key, it)
	}
}

func (l *Lane) onFloorENTRY(m *Message) {
	invalid := m.Bits&BitInvalid != 0
	if l.floor.ts.Less(m.TS) {
		l.raiseFloor(m.TS, m.Finisher)
	}
	if l.floor.ts == m.TS && l.floor.invalid && !invalid {
		l.floor.invalid = false
	}
	l.rescueFloor()
}

// onFETCHED ends a chunk.
func (l *Lane) onFETCHED(m *Message) {
	j := &l.join
	if !l.catching || !j.asked || j.token != m.ID || j.streamer != m.From {
		return
	}
	j.asked, j.cursor = false, m.CAS // and what is pending may be dropped
	if m.Bits&BitComplete != 0 {
		j.complete = true
		if j.deleted.Less(m.Newer) {
			j.deleted = m.Newer
		}
		l.takeOver()
		if !j.done {
			l.askClocks()
		}
	}
}

// takeOver makes the streamer's D this member's, once every member's clock has come in this view and no plain write up to D can still
// be under way to here: from then on the lane is like any other.
func (l *Lane) takeOver() {
	j := &l.join
	if !l.catching || !j.complete || j.done || l.unmarked != 0 || l.stable() < j.deleted.Version() {
		return
	}
	j.done = true
	l.drop(j.deleted)
	l.dropTombs(l.stable()) // those that had to stay
}
