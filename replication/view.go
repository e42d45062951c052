package replication

import "hermesd/table"

// View is the group as a member knows it at one time.
type View struct {
	Epoch      uint64
	Self       Member
	Members    []Member // including Self, by number
	CatchingUp uint64   // numbers of those whose memory is not complete yet: they take every update, and serve and begin nothing
}

// SetView has the lane enter a view (design section 4, "View change"). Channels to new incarnations start closed. What is in flight is sent again
// to those whose acknowledgement is missing, before anything else on their channels: a read-modify-write gathers from none. What members that are
// gone have left unvalidated is replayed: at once where somebody waits for it, and by and by (Scan) where not.
func (l *Lane) SetView(v View) {
	old, epoch := l.members, l.epoch
	kept := l.peers // with the same incarnation
	l.members = [MaxMember + 1]Member{}
	l.peers = 0
	l.epoch, l.self = v.Epoch, v.Self.Number
	for _, m := range v.Members {
		l.members[m.Number] = m
		if m.Number == l.self {
			continue
		}
		l.peers |= bit(m.Number)
		if old[m.Number] != m {
			kept &^= bit(m.Number)
			l.open &^= bit(m.Number)
			l.unmarked |= bit(m.Number)
			l.heard[m.Number] = 0
			l.tombs.stable, l.tombs.asked = 0, 0 // stable falls: it may come back to what it was, and has moved then
		}
	}
	kept &= l.peers
	l.open &= l.peers
	l.catching = v.CatchingUp&bit(l.self) != 0
	l.serving = l.peers &^ v.CatchingUp
	if epoch == v.Epoch {
		return // nothing but incarnations that were not known yet
	}
	l.unmarked = l.peers                                     // what is sent again may be older than clocks that came before
	l.scan = scan{active: epoch != 0, keys: l.scan.keys[:0]} // in a first view there is nothing yet
	l.join.interrupt()
	l.gatherAnew(kept)
	l.traceLane(StepEnter)
	for p := l.open; p != 0; p &= p - 1 {
		l.sendAgain(lowest(p))
	}
	l.completeAll()
	l.rescueFloor()
	l.rescueAwaited()
	if l.peers == 0 {
		l.drainAll()
	}
	l.clocksMoved()
}

// gatherAnew decides which acknowledgements count in the new view: those of plain writes, by members that were in the old one. A read-modify-write
// may have been overtaken by one that a member gone has begun; and so may what is replayed.
func (l *Lane) gatherAnew(kept uint64) {
	for _, op := range l.flight.slots {
		switch {
		case op == nil:
		case op.ts.Step != 0 || op.replay:
			op.acked = 0
		default:
			op.acked &= kept
		}
	}
}

// completeAll completes the updates that only members that are gone had not acknowledged. Those that it makes room for begin meanwhile.
func (l *Lane) completeAll() {
	for i := 0; i < len(l.flight.slots); i++ {
		if op := l.flight.slots[i]; op != nil && op.acked&l.peers == l.peers {
			l.complete(op, 0)
		}
	}
}

// gone reports whether a member that has an update in flight, or has had it, is not there any more to finish it.
func (l *Lane) gone(finisher uint8) bool {
	return finisher != l.self && l.peers&bit(finisher) == 0
}

// Settled reports whether nothing is left here of members that are not in the view: their numbers can be given out again.
func (l *Lane) Settled() bool {
	return !l.scan.active && l.flight.replays == 0 && !(l.floor.invalid && l.gone(l.floor.finisher))
}

// scan is the search, after a view has been entered, for items that are invalid.
type scan struct {
	active bool
	cursor uint64
	keys   []scanKey // found in the present step
}

type scanKey struct {
	hash uint64
	key  []byte
}

// scanSteps is how many buckets of the index a tick looks at.
const scanSteps = 32

// Scan goes on with the search that entering a view begins: what a member gone has left is replayed, and what others have in flight is asked
// for, since the answer may have been sent in the old view. It makes so many steps, and reports whether there is more to do.
func (l *Lane) Scan(steps int) (more bool) {
	s := &l.scan
	if !s.active || l.flight.count >= maxInFlight {
		return s.active
	}
	next, done := l.items.Walk(s.cursor, steps, func(key []byte, it *table.Item) bool {
		if it.State&table.Invalid != 0 && it.Finisher != l.self && !l.governed(it) {
			s.add(key)
		}
		return true
	})
	for i := range s.keys {
		l.pursue(s.keys[i].hash, s.keys[i].key)
	}
	s.keys = s.keys[:0]
	if s.cursor = next; !done {
		return true
	}
	*s = scan{}
	if l.floor.invalid && l.floor.finisher != l.self {
		l.probeFloor()
	}
	return false
}

func (s *scan) add(key []byte) {
	n := len(s.keys)
	if n < cap(s.keys) {
		s.keys = s.keys[:n+1] // with the buffer of an earlier one
	} else {
		s.keys = append(s.keys, scanKey{})
	}
	s.keys[n].hash, s.keys[n].key = table.Hash(key), append(s.keys[n].key[:0], key...)
}

// pursue brings an invalid key on: by a replay if its finisher is gone, by a question otherwise.
func (l *Lane) pursue(hash uint64, key []byte) {
	it := &l.found.pursue
	if l.find(hash, key, it) != keyInvalid || it.TS == l.floor.ts || it.Finisher == l.self {
		return
	}
	if l.gone(it.Finisher) {
		l.replay(hash, key, it)
		if q := l.queues.find(hash, key); q != nil && l.peers == 0 {
			l.drain(q)
		}
		return
	}
	l.out = Message{Kind: PROBE, TS: it.TS, Key: key, Bits: stateBits(it.State) & BitTombstone}
	l.send(it.Finisher)
}
