package table

// Sweep looks at up to maxRecords records of segments in which something may have expired at now, and asks visit about those that
// have, like Collect: Drop and Pending as there, Keep leaves the item where it is. So the memory of expired
// items that nobody reads comes back. It goes on where it stopped last time, and returns how many records it has looked at:
// fewer than maxRecords means that it has been through. Tombstones and Invalid items are left alone. What was Pending
// or kept is asked about again a second later at the earliest.
func (l *Lane) Sweep(now uint32, maxRecords int, visit Visit) (looked int) {
	for looked < maxRecords {
		if l.sweeping == 0 && !l.chooseSweep(now) {
			break
		}
		looked += l.sweepSegment(now, maxRecords-looked, visit)
	}
	return looked
}

// chooseSweep begins with a segment in which something may have expired, if there is one: with the one that is due the longest. What had to
// stay is due again a second after it was looked at, so its segment comes after all that were due before.
func (l *Lane) chooseSweep(now uint32) bool {
	if l.leastExptime > now {
		return false
	}
	least, first := noExptime, uint32(0)
	look := func(id uint32) {
		if id != 0 && l.segments[id].leastExptime < least {
			least, first = l.segments[id].leastExptime, id
		}
	}
	for _, q := range []*queue{&l.small, &l.main} {
		for id := q.head; id != 0; id = l.segments[id].next {
			look(id)
		}
		look(q.open)
	}
	look(l.victim.id)
	if least > now {
		l.leastExptime = least
		return false
	}
	l.sweeping, l.sweepAt, l.sweepLeast = first, 0, noExptime
	l.segments[first].leastExptime = noExptime // what changes while Sweep is in it lowers it again
	return true
}

// sweepSegment looks at up to maxRecords records of the segment that Sweep is in.
func (l *Lane) sweepSegment(now uint32, maxRecords int, visit Visit) (looked int) {
	id := l.sweeping
	s := &l.segments[id]
	pinned := s.pinned
	s.pinned = true // it must not go away under us
	base := l.offset(id)
	for ; l.sweepAt < s.used && looked < maxRecords; looked++ {
		rec := base + uint64(l.sweepAt)
		l.sweepAt += uint32(l.recordBytes(rec))
		if w := *l.word(rec); w&(markDead|markPiece) == 0 {
			l.sweepLeast = min(l.sweepLeast, l.sweepItem(now, rec, w, visit))
		}
	}
	s.pinned = pinned
	if l.sweepAt == s.used {
		s.leastExptime = min(s.leastExptime, l.sweepLeast)
		l.sweeping = 0
	}
	if s.live == 0 && !s.open && !pinned {
		l.unlink(l.queueOf(s.use), id)
		l.release(id)
	}
	return looked
}

// sweepItem asks about an item if it has expired, and returns the time from which it is to be looked at
// (again).
func (l *Lane) sweepItem(now uint32, rec, w uint64, visit Visit) (least uint32) {
	it := &l.visited
	l.readHeader(rec, w, it)
	switch {
	case it.Exptime == 0:
		return noExptime
	case !it.Expired(now):
		return it.Exptime
	case it.State&(Tombstone|Invalid) != 0:
		return now + 1
	}
	l.change()
	key := l.key(rec)
	hash := Hash(key)
	it.slot = l.slotOf(hash, rec)
	verdict := visit(key, hash, it)
	switch {
	case *l.word(rec)&markDead != 0: // visit has removed it, or put another record in its place
		l.expired++
		return noExptime
	case verdict == Drop:
		l.expired++
		l.drop(l.slotOf(hash, rec), rec, false) // a Put in visit may have moved entries
		return noExptime
	case verdict == Pending:
		l.expired++
	}
	return now + 1
}
