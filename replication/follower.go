package replication

import "hermesd/table"

// onINV is the follower's part (paper section 3.1, design section 4): apply what is newer, acknowledge every plain write, and refuse a
// read-modify-write that has been overtaken.
func (l *Lane) onINV(m *Message) {
	if v := m.TS.Version(); v > l.clock {
		l.clock = v
	}
	hash := table.Hash(m.Key)
	if m.Bits&BitTired != 0 {
		l.queues.get(hash, m.Key).yieldTo(m.From.Number, l.tick+l.timing.Yield)
	}
	if m.TS.Less(l.floor.ts) {
		l.overtaken(m, hash, nil)
		return
	}
	it := &l.found.onINV
	stored := l.items.Find(hash, m.Key, it) && it.TS.Compare(l.floor.ts) > 0
	if !stored {
		l.onINVAbsent(m, hash)
		return
	}
	switch m.TS.Compare(it.TS) {
	case +1:
		l.apply(m, hash, it)
		l.ack(m)
	case 0:
		if it.State&(table.Tombstone|table.Invalid) == table.Tombstone && m.Bits&BitTombstone == 0 {
			l.refuseAbsent(m) // this time stamp was given up, and the key is absent
			return
		}
		l.takenOver(m, it)
		l.ack(m)
	default:
		l.overtaken(m, hash, it)
	}
}

// onINVAbsent takes an INV for a key that is not stored. At a version not above D it may be an old one sent again, and must not bring a
// deleted key back.
func (l *Lane) onINVAbsent(m *Message, hash uint64) {
	if m.TS.Version() > l.dropped.Version() {
		l.apply(m, hash, nil)
		l.ack(m)
		return
	}
	if m.Bits&(BitOnAbsent|BitReplay) != 0 {
		l.refuseAbsent(m)
		return
	}
	l.ack(m)
}

// apply makes the message's state the key's, invalid until its coordinator says otherwise. The
// sender has credit for the memory, so that a full table here is a broken promise and not an answer.
func (l *Lane) apply(m *Message, hash uint64, old *table.Item) {
	if old != nil {
		l.outrank(hash, m.Key, old)
	}
	it := &l.found.apply
	*it = messageItem(m)
	it.TS = m.TS
	it.State |= table.Invalid
	it.Finisher = m.From.Number
	if err := l.put(hash, m.Key, it, m.Value); err != nil {
		panic("replication: no memory for an update that had credit: " + err.Error())
	}
}

// messageItem is the item that a message describes, without time stamp.
func messageItem(m *Message) table.Item {
	it := table.Item{CAS: m.CAS, Flags: m.Flags, Exptime: m.Exptime}
	if m.Bits&BitTombstone != 0 {
		it.State |= table.Tombstone
	}
	if m.Bits&BitOnAbsent != 0 {
		it.State |= table.OnAbsent
	}
	return it
}

func (l *Lane) ack(m *Message) {
	l.out = Message{Kind: ACK, ID: m.ID, TS: m.TS}
	l.send(m.From.Number)
}

// refuseAbsent is NACK(absent, D).
func (l *Lane) refuseAbsent(m *Message) {
	l.out = Message{Kind: NACK, Bits: BitAbsent, ID: m.ID, TS: m.TS, Newer: l.dropped}
	l.send(m.From.Number)
}

// overtaken answers an INV that is older than the key's state here: a plain write is acknowledged, since it is as if
// it had come and gone; a read-modify-write has read what is no longer the newest value and is refused, with the newer
// state, and so is a replay, whose sender has to learn of it. it is nil if the newer state is the floor.
func (l *Lane) overtaken(m *Message, hash uint64, it *table.Item) {
	if !m.IsRMW() && m.Bits&BitReplay == 0 {
		l.ack(m)
		return
	}
	l.out = Message{Kind: NACK, ID: m.ID, TS: m.TS}
	if it == nil {
		l.out.Newer, l.out.Bits, l.out.Finisher = l.floor.ts, BitTombstone, l.floor.finisher
		if !l.floor.invalid {
			l.out.Finisher = l.self
		}
		l.send(m.From.Number)
		return
	}
	l.describe(it)
	l.out.Finisher = it.Finisher
	if it.State&table.Invalid == 0 {
		l.out.Finisher = l.self // it is valid here: this member can say so
	}
	l.queues.get(hash, m.Key).yieldTo(m.From.Number, l.tick+l.timing.Yield)
	l.send(m.From.Number)
}

// describe fills l.out with an item's state: the value lies in l.scratch until the message is sent.
func (l *Lane) describe(it *table.Item) {
	l.out.Newer, l.out.Bits = it.TS, stateBits(it.State)
	l.out.CAS, l.out.Flags, l.out.Exptime = it.CAS, it.Flags, it.Exptime
	if it.State&table.Tombstone == 0 {
		l.scratch = l.items.AppendValue(l.scratch[:0], it)
		l.out.Value = l.scratch
	}
}

// onNACK ends an attempt of an own read-modify-write. The newer state is adopted, invalid, so that the operation has
// something to wait for: its finisher validates it, or is asked.
func (l *Lane) onNACK(m *Message) {
	op := l.flight.get(m.ID)
	if op == nil || op.ts != m.TS || !op.replay && !m.IsRMW() {
		return
	}
	if op.Kind == OpFlush {
		l.onFlushNACK(op, m)
		return
	}
	it := &l.found.onNACK
	at := l.find(op.Hash, op.Key, it) == keyInvalid && it.TS == op.ts
	if at && m.Bits&BitAbsent != 0 {
		// Nobody has it complete or ever will: the key is as absent as before, and this time stamp is used up.
		*it = table.Item{TS: op.ts, State: table.Tombstone | table.Invalid}
		l.mustPut(op.Hash, op.Key, it, nil)
		l.revalidate(op.Hash, op.Key)
	} else if at {
		l.adopt(op.Hash, op.Key, m)
	}
	if m.Bits&BitAbsent != 0 && m.Newer.Version() > op.minimum {
		op.minimum = m.Newer.Version()
	}
	l.traceReceived(StepNACK, op.Hash, op.Key, m)
	q := l.outranked(op)
	if at && m.Bits&BitAbsent == 0 {
		l.pursueGone(op.Hash, op.Key)
	}
	if q != nil {
		l.drain(q)
	}
}

// adopt makes the newer state of a NACK the key's, invalid, to be finished by the member that the NACK names.
func (l *Lane) adopt(hash uint64, key []byte, m *Message) {
	it := &l.found.adopt
	*it = messageItem(m)
	it.TS = m.Newer
	it.State |= table.Invalid
	it.Finisher = m.Finisher
	if it.Finisher == l.self {
		it.Finisher = m.From.Number
	}
	if finisher := it.Finisher; l.refuse || l.put(hash, key, it, m.Value) != nil {
		// There is no memory for it now. The key stays as it is, invalid, but it is the finisher of the newer state that can be asked.
		it = &l.found.refused
		if l.items.Find(hash, key, it) {
			it.Finisher = finisher
			l.mustUpdate(it)
		}
	}
}

// revalidate makes a key that was just written invalid valid.
func (l *Lane) revalidate(hash uint64, key []byte) {
	it := &l.found.revalidate
	if l.items.Find(hash, key, it) {
		l.validate(hash, key, it)
	}
}

func (l *Lane) mustPut(hash uint64, key []byte, it *table.Item, value []byte) {
	if err := l.put(hash, key, it, value); err != nil {
		panic("replication: no memory for a state that a member sent: " + err.Error())
	}
}

// onVAL validates the key if it is still at the message's time stamp.
func (l *Lane) onVAL(m *Message) {
	hash := table.Hash(m.Key)
	it := &l.found.onVAL
	if l.find(hash, m.Key, it) != keyInvalid || it.TS != m.TS || it.TS == l.floor.ts {
		return
	}
	if l.catching && it.Finisher != m.From.Number {
		return // it may be of before a delete that is forgotten here (catchup.go)
	}
	l.validate(hash, m.Key, it)
	l.traceReceived(StepVAL, hash, m.Key, m)
	if q := l.queues.find(hash, m.Key); q != nil {
		q.yield &^= bit(m.From.Number) // the member that had lost has had its turn
		l.drain(q)
	}
}

// onPROBE answers a member that has waited long on an update of this member: with what is valid here now, or not at all.
func (l *Lane) onPROBE(m *Message) {
	if m.Bits&BitFlush != 0 {
		l.onFlushPROBE(m)
		return
	}
	hash := table.Hash(m.Key)
	l.out = Message{Kind: STATE, TS: m.TS, Key: m.Key}
	it := &l.found.onPROBE
	state := l.find(hash, m.Key, it)
	if state == keyInvalid && it.TS == l.floor.ts && it.TS.Less(m.TS) {
		state = keyAbsent // a flush that is older than what is asked about, and has not ended here, has nothing to do with it
	}
	switch state {
	case keyInvalid:
		if it.TS == m.TS && it.TS != l.floor.ts && it.Finisher != l.self && !l.finishing(hash, m.Key, it.TS) {
			l.replay(hash, m.Key, it) // who asks takes this member for its finisher, and perhaps this member takes the other
		}
		return // still under way: its end will be told
	case keyAbsent:
		if m.TS.Version() > l.dropped.Version() && m.TS.Compare(l.floor.ts) > 0 {
			return // never heard of here
		}
		l.out.Bits = BitAbsent
	default:
		switch it.TS.Compare(m.TS) {
		case -1:
			return
		case 0:
			if it.State&table.Tombstone != 0 && m.Bits&BitTombstone == 0 {
				l.out.Bits = BitAbsent
				break
			}
			l.out.Kind = VAL
		default:
			l.describe(it)
		}
	}
	l.send(m.From.Number)
	l.traceReceived(StepPROBE, hash, m.Key, m)
}

// onSTATE applies the answer to a probe, where the key is still at what was asked about.
func (l *Lane) onSTATE(m *Message) {
	hash := table.Hash(m.Key)
	it := &l.found.onSTATE
	if l.find(hash, m.Key, it) != keyInvalid || it.TS != m.TS || it.TS == l.floor.ts || it.Finisher == l.self {
		return
	}
	next := &l.found.onSTATENext
	*next = table.Item{TS: it.TS, State: table.Tombstone}
	if m.Bits&BitAbsent == 0 {
		*next = messageItem(m)
		next.TS = m.Newer
	}
	next.State |= table.Invalid
	if l.put(hash, m.Key, next, m.Value) != nil {
		return // no memory now: the key stays invalid, and its finisher is asked again
	}
	l.revalidate(hash, m.Key)
	l.traceReceived(StepSTATE, hash, m.Key, m)
	if q := l.queues.find(hash, m.Key); q != nil {
		l.drain(q)
	}
}
