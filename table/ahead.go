package table

// The kernel gives memory when it is first touched, and a huge page all at once: zeroing it takes a millisecond, several where the machine is a virtual one that has to ask its host.
// Whoever touches it first waits for that, with its lane locked, and clients behind it. So memory is touched before it is needed, by a goroutine that nobody waits for.

const (
	aheadBytes = 4 << 20 // of memory that has never been used, how much has been touched
	aheadStep  = 2 << 20 // of one call: a huge page
)

// ahead is the goroutine that touches memory, and what it shares with pool.take.
type ahead struct {
	wake  chan struct{} // nil: there is no goroutine
	stop  chan struct{}
	ended chan struct{}
	mark  uint32 // a segment: when fresh has passed it, there is something to do. Guarded by pool.mu
}

// startAhead has memory touched from now on, if that is worth it and the kernel can.
func (t *Table) startAhead() {
	if len(t.mapping) < hugePagesFrom || populate(t.mapping[:t.segmentBytes]) != nil {
		return
	}
	a := &t.pool.ahead
	a.wake, a.stop, a.ended = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	t.mu.Lock()
	a.mark = t.fresh // that many have been taken for the index: memory is touched when the first item comes
	t.mu.Unlock()
	go t.touchAhead()
}

func (t *Table) stopAhead() {
	if a := &t.pool.ahead; a.wake != nil {
		close(a.stop)
		<-a.ended
		a.wake = nil
	}
}

// passed wakes the goroutine if fresh has passed the mark. With pool.mu held.
func (a *ahead) passed(fresh uint32) {
	if a.wake != nil && fresh > a.mark {
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}
}

// touchAhead is the goroutine. Where the kernel refuses, memory is touched by who needs it, as ever.
func (t *Table) touchAhead() {
	a := &t.pool.ahead
	defer close(a.ended)
	touched := uint64(0) // offset
	for {
		select {
		case <-a.stop:
			return
		case <-a.wake:
		}
		t.mu.Lock()
		used := t.offset(t.fresh)
		a.mark = t.fresh + uint32(aheadBytes/2>>t.segmentShift)
		t.mu.Unlock()
		touched = max(touched, used) &^ (aheadStep - 1)
		for to := min(used+aheadBytes, t.size); touched < to; touched += aheadStep {
			select {
			case <-a.stop:
				return
			default:
			}
			if err := populate(t.mapping[touched:min(touched+aheadStep, t.size)]); err != nil {
				return
			}
		}
	}
}
