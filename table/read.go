package table

import "runtime"

// This file is reading without the lane's lock, by a sequence lock. A writer makes the lane's sequence
// number odd before its first change and even again when it unlocks. A reader notes the number (even),
// reads, and then looks whether it is still the same: if so, nothing has changed in between, and what it has read is of one
// moment. Otherwise it may have read anything, bytes of other items too, and throws it away. It may do so because
// reading can do no harm: entries are whole words, an index page stays one as long as the number does (Clear), a link to an overflow bucket is
// followed only if the number has not changed, and every
// place and length that comes from an entry or a record is checked against the mapping before it is followed.
//
// Two orders matter. The first load of the number comes before what is read: it is an atomic load, after which Go
// and all processors keep later loads. What is read comes before the last load of the number:
// see confirm_amd64.go and confirm_other.go.

// Ticket names the moment that a View has seen.
type Ticket uint64

const (
	viewSpins    = 64 // that a writer's section of usual length is over, before the lock is tried
	viewAttempts = 16
)

// View is Find without the lock, and counts an access. Hit or miss, the answer and what AppendValue then gives are good only
// if Confirm of the ticket says so afterwards; otherwise View again, and after a few times take the lock. View
// itself always ends: while writers do not let it look it waits for the lock like they do.
func (l *Lane) View(hash uint64, key []byte, it *Item) (ticket Ticket, found bool) {
	for attempt := range viewAttempts {
		seq := l.seq.Load()
		if seq&1 != 0 {
			seq = l.waitForWriter(attempt)
			if seq&1 != 0 {
				continue
			}
		}
		slot, entry, word := l.lookup(hash, key, seq)
		if slot == 0 {
			return Ticket(seq), false
		}
		it.slot = slot
		l.readHeader(recordOf(entry), word, it)
		// Here already: a torn ValueLen could ask AppendValue for any amount of memory.
		if !l.unchanged(seq) {
			continue
		}
		l.count(slot, entry, seq, it)
		return Ticket(seq), true
	}
	return l.viewLocked(hash, key, it)
}

// waitForWriter waits a little for the number to become even.
func (l *Lane) waitForWriter(attempt int) (seq uint64) {
	for range viewSpins {
		if seq = l.seq.Load(); seq&1 == 0 {
			return seq
		}
	}
	if attempt > 0 {
		runtime.Gosched() // the writer may need this processor
	}
	return seq
}

func (l *Lane) viewLocked(hash uint64, key []byte, it *Item) (Ticket, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := l.Find(hash, key, it)
	if found {
		l.Used(it)
	}
	return Ticket(l.seq.Load()), found
}

// Confirm tells whether the lane has not changed since the View that gave the ticket: everything read since
// then is of one moment.
func (l *Lane) Confirm(ticket Ticket) bool { return l.unchanged(uint64(ticket)) }
