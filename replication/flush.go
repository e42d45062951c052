package replication

import "hermesd/table"

// flush_all is a plain write to all keys of a lane at once. Its time stamp is the lane's floor, F: what is at or below it is
// invalid while the flush is under way, and absent after it. Items below it stay in the table until they are met.
type floor struct {
	ts       table.Timestamp
	invalid  bool
	finisher uint8
}

// startFlush starts a flush of the lane.
func (l *Lane) startFlush(op *Op) (done bool) {
	l.clock++
	op.ts = table.Timestamp{Write: l.clock<<8 | uint64(l.self)}
	op.Result.Status = Flushed
	l.raiseFloor(op.ts, l.self)
	if l.peers == 0 {
		l.floor.invalid = false
		return true
	}
	op.acked, op.phase, op.started = 0, inFlight, l.env.Now()
	l.flight.add(op)
	l.inv(op)
	l.broadcast(l.peers)
	return false
}

// raiseFloor makes ts the floor, invalid. Own read-modify-writes below it are outranked.
func (l *Lane) raiseFloor(ts table.Timestamp, finisher uint8) {
	l.floor = floor{ts: ts, invalid: true, finisher: finisher}
	l.traceLane(StepFlush)
	for _, op := range l.flight.slots {
		if op != nil && op.isRMW() && op.ts.Less(ts) {
			l.outranked(op)
		}
	}
}

func (l *Lane) onFlushINV(m *Message) {
	if v := m.TS.Version(); v > l.clock {
		l.clock = v
	}
	switch replay := m.Bits&BitReplay != 0; {
	case l.floor.ts.Less(m.TS):
		l.raiseFloor(m.TS, m.From.Number)
	case replay && m.TS.Less(l.floor.ts):
		l.out = Message{Kind: NACK, Bits: BitFlush, ID: m.ID, TS: m.TS, Newer: l.floor.ts, Finisher: l.floor.finisher}
		if !l.floor.invalid {
			l.out.Finisher = l.self
		}
		l.send(m.From.Number)
		return
	case replay && l.floor.invalid && l.gone(l.floor.finisher):
		l.floor.finisher = m.From.Number
	}
	l.ack(m)
}

// onFlushNACK ends the replay of a flush that a newer one has overtaken: that takes its place.
func (l *Lane) onFlushNACK(op *Op, m *Message) {
	l.flight.remove(op)
	if !l.floor.ts.Less(m.Newer) {
		return
	}
	finisher := m.Finisher
	if finisher == l.self {
		finisher = m.From.Number
	}
	l.raiseFloor(m.Newer, finisher)
	l.rescueFloor()
}

func (l *Lane) onFlushVAL(m *Message) {
	if l.floor.ts == m.TS && l.floor.invalid {
		l.floor.invalid = false
		l.drainAll()
	}
}

func (l *Lane) completeFlush(op *Op) {
	if l.floor.ts == op.ts {
		l.floor.invalid = false
		l.out = Message{Kind: VAL, Bits: BitFlush, TS: op.ts}
		l.broadcast(l.peers)
	}
	l.finish(op)
	l.drainAll()
}

// probeFloor asks the member that flushes what became of it.
func (l *Lane) probeFloor() {
	l.out = Message{Kind: PROBE, Bits: BitFlush, TS: l.floor.ts}
	l.send(l.floor.finisher)
}

// onFlushPROBE answers a member whose VAL of a flush was lost.
func (l *Lane) onFlushPROBE(m *Message) {
	if l.floor.ts == m.TS && !l.floor.invalid {
		l.out = Message{Kind: VAL, Bits: BitFlush, TS: m.TS}
		l.send(m.From.Number)
	}
}
