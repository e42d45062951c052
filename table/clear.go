package table

import "runtime"

// Clear takes everything out of the lane, tombstones and ghosts too, and gives its memory back, but for one page of the index, with which it
// began. What it has counted of the past (Stats.Evicted, Expired, Moved) stays. It takes some tens of microseconds for each thousand segments, and
// may be called at any time but by a Visit. A Walk that is under way is done with its next call.
func (l *Lane) Clear() {
	l.change()
	l.awaitCounts() // pages of the index will be other memory
	for _, q := range []*queue{&l.small, &l.main} {
		for id := q.head; id != 0; {
			next := l.segments[id].next
			l.give(id)
			id = next
		}
		if q.open != 0 {
			l.give(q.open)
		}
		*q = queue{use: q.use}
	}
	if l.victim.id != 0 {
		l.give(l.victim.id)
	}
	l.victim = victim{}
	l.collecting.Store(false)
	l.logSegments.Store(0)
	l.fruitless, l.asked, l.opened = 0, false, 0
	l.leastExptime = noExptime
	l.sweeping, l.sweepAt, l.sweepLeast = 0, 0, 0
	l.clearIndex()
}

// awaitCounts returns when no reader without the lock is about to count an access that it saw before change.
func (l *Lane) awaitCounts() {
	for i := range l.counting {
		for l.counting[i].readers.Load() != 0 {
			runtime.Gosched()
		}
	}
}
