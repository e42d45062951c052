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
	op.acked, op.phase = 0, inFlight
	l.flight.add(op)
	l.inv(op)
	l.broadcast(l.peers)
	return false
}

// raiseFloor makes ts the floor, invalid. Own read-modify-writes below it are outranked.
func (l *Lane) raiseFloor(ts table.Timestamp, finisher uint8) {
	l.floor = floor{ts: ts, invalid: true, finisher: finisher}
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
	if l.floor.ts.Less(m.TS) {
		l.raiseFloor(m.TS, m.From.Number)
	}
	l.ack(m)
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

// onFlushPROBE answers a member whose VAL of a flush was lost.
func (l *Lane) onFlushPROBE(m *Message) {
	if l.floor.ts == m.TS && !l.floor.invalid {
		l.out = Message{Kind: VAL, Bits: BitFlush, TS: m.TS}
		l.send(m.From.Number)
	}
}
