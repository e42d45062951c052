package replication

import (
	"bytes"

	"hermesd/table"
)

// A member's updates are its own to finish while it is in the view. Once it has left, every member that holds one of them unvalidated sends it
// again, with the same time stamp and marked as a replay, and validates it when all have acknowledged (paper section 3.4, design section 4, "Replay").
// Its record is like that of an own update in flight, but nobody waits to be answered.

// rescue replays the invalid item, as found, if its finisher has left the view.
func (l *Lane) rescue(hash uint64, key []byte, it *table.Item) {
	switch {
	case !l.gone(it.Finisher):
	case it.TS == l.floor.ts:
		l.rescueFloor()
	default:
		l.replay(hash, key, it)
	}
}

// pursueGone is rescue for a key whose state has just been adopted.
func (l *Lane) pursueGone(hash uint64, key []byte) {
	it := &l.found.rescue
	if l.find(hash, key, it) == keyInvalid {
		l.rescue(hash, key, it)
	}
}

// rescueAwaited does it for every key that somebody waits for.
func (l *Lane) rescueAwaited() {
	for q := l.queues.first; q != nil; {
		next := q.next
		it := &l.found.rescue
		if l.find(q.hash, q.key, it) == keyInvalid {
			l.rescue(q.hash, q.key, it)
		}
		q = next
	}
}

// replay begins the replay of an invalid item, as found. In a group that has no other member it is over at once, and the caller runs what waits
// for the key.
func (l *Lane) replay(hash uint64, key []byte, it *table.Item) {
	if l.peers == 0 {
		l.validate(hash, key, it)
		l.traceLane(StepAlone)
		return
	}
	op := &Op{Kind: opReplay, Hash: hash, Key: append([]byte(nil), key...), ts: it.TS, item: *it, replay: true, phase: inFlight, started: l.env.Now()}
	if it.State&table.Tombstone == 0 {
		op.newValue = l.items.AppendValue(nil, it)
	}
	it.Finisher = l.self
	l.mustUpdate(it)
	l.launchReplay(op)
	l.traceUpdate(StepReplay, op)
}

// rescueFloor replays a flush whose member is gone.
func (l *Lane) rescueFloor() {
	if !l.floor.invalid || !l.gone(l.floor.finisher) {
		return
	}
	if l.peers == 0 {
		l.floor.invalid = false
		return
	}
	l.floor.finisher = l.self
	l.launchReplay(&Op{Kind: OpFlush, ts: l.floor.ts, replay: true, phase: inFlight, started: l.env.Now()})
}

func (l *Lane) launchReplay(op *Op) {
	l.flight.add(op)
	l.inv(op)
	l.broadcast(l.peers)
}

// takenOver notes that the sender of a replay finishes what this member holds of a member gone: one replay is enough.
func (l *Lane) takenOver(m *Message, it *table.Item) {
	if m.Bits&BitReplay != 0 && it.State&table.Invalid != 0 && l.gone(it.Finisher) {
		it.Finisher = m.From.Number
		l.mustUpdate(it)
	}
}

// finishing reports whether this member has the update in flight. If it has not, though others take it for the finisher, it has replayed the update and was
// refused, as that was over: another had replayed it too. Members that catch up may have stored its replay as something new all the same.
func (l *Lane) finishing(hash uint64, key []byte, ts table.Timestamp) bool {
	for _, op := range l.flight.slots {
		if op != nil && op.Hash == hash && op.ts == ts && bytes.Equal(op.Key, key) {
			return true
		}
	}
	return false
}
