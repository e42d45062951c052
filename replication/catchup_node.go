package replication

import (
	"sync"
	"time"

	"hermesd/table"
)

// catchUp fetches the lanes of a member that is catching up, a few at a time, each from a serving member, paced so that clients of the serving
// members notice little of it. Everything that can go wrong ends in the same way: what was asked for is asked for again.
type catchUp struct {
	mu      sync.Mutex
	stop    chan struct{} // nil: not running
	stopped sync.WaitGroup
	again   chan struct{}
	fetcher *fetcher
	chunk   uint32 // bytes asked for at a time
}

// fetcher is one who fetches, from begin to finish.
type fetcher struct {
	began time.Time // zero: it has been said that all has come
	next  time.Time // when the pace allows the next chunk
}

const (
	fetchBytes   = 64 << 10              // of one FETCH, about: how long the lane of the serving member is locked
	fetchLanes   = 4                     // that are asked for at one time
	catchUpSlack = 10 * time.Millisecond // of the pace that may be made up for, where a timer came late
	catchUpRate  = 24 << 20              // bytes a second; docs/testing-chaos.md says what clients notice
)

// begin starts to fetch, or has the one who does look again.
func (c *catchUp) begin(n *Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop == nil {
		c.stop, c.again = make(chan struct{}), make(chan struct{}, 1)
		now := n.now()
		c.fetcher = &fetcher{began: now, next: now}
		if stop, again, f := c.stop, c.again, c.fetcher; n.driven {
			c.stopped.Go(func() { n.fetchLanes(f, stop, again) })
		}
	}
	c.wakeLocked()
}

// wake says that an answer has come, or cannot come any more.
func (c *catchUp) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wakeLocked()
}

func (c *catchUp) wakeLocked() {
	if c.stop != nil {
		select {
		case c.again <- struct{}{}:
		default:
		}
	}
}

// finish stops fetching, for there is nothing more to fetch.
func (c *catchUp) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop != nil {
		close(c.stop)
		c.stop = nil
	}
}

// end stops fetching and waits until it has.
func (c *catchUp) end() {
	c.finish()
	c.stopped.Wait()
}

// fetchLanes is catchUp's goroutine.
func (n *Node) fetchLanes(f *fetcher, stop, again <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-stop:
			return
		case <-again:
		case <-timer.C:
		}
		if wait := n.fetchDue(f); wait > 0 {
			timer.Reset(wait)
		}
	}
}

// fetchDue asks for what the pace allows, and returns how long to wait for the next chunk's turn; 0: until an answer has come (catchUp.wake).
func (n *Node) fetchDue(f *fetcher) (wait time.Duration) {
	const pause = fetchBytes * time.Second / catchUpRate
	for {
		now := n.now()
		if wait = f.next.Sub(now); wait > 0 || !n.fetchOne() {
			break
		}
		if late := now.Add(-catchUpSlack); f.next.Before(late) {
			f.next = late
		}
		f.next = f.next.Add(pause)
	}
	n.Flush()
	if !f.began.IsZero() && n.Status().CaughtUp {
		n.log.Info().Dur("took", n.now().Sub(f.began)).Msg("memory is complete; waiting to be let serve")
		f.began = time.Time{}
	}
	return max(0, wait)
}

// fetchOne asks for a chunk of the first lane that needs one, unless enough is asked for.
func (n *Node) fetchOne() bool {
	asked := 0
	for i := 0; i < table.Lanes && asked < fetchLanes; i++ {
		nl := &n.lanes[i]
		nl.lock()
		if nl.lane.Fetching() {
			asked++
		} else if from := nl.lane.streamer(); from != 0 && nl.lane.Fetch(from, n.catchUp.chunk) {
			nl.unlock(nil)
			return true
		}
		nl.unlock(nil)
	}
	return false
}

// askForRoom has a serving member evict, where this one has no memory for what it is sent, or is to be sent, and may not evict itself.
func (n *Node) askForRoom() {
	ms := &n.membership
	if n.room.evicts.Load() {
		return
	}
	stalled := uint64(0)
	for set := ms.peers.Load(); set != 0; set &= set - 1 {
		stalled |= ms.stalls[lowest(set)].lanes.Load()
	}
	if short := n.credit.short.Swap(false); stalled == 0 && !short {
		return
	}
	ms.mu.Lock()
	able := ms.view.Serving() & ms.connected
	ms.mu.Unlock()
	if able != 0 {
		n.transport.Send(lowest(able), &Message{Kind: NEEDROOM, ID: uint64(n.credit.window)})
	}
}

// forgetSettled gives back what members that have left the view were promised, once nothing of theirs can come any more, by replays of others.
func (n *Node) forgetSettled() {
	ms := &n.membership
	if ms.left.Load() == 0 || !n.Status().Settled {
		return
	}
	ms.changing.Lock()
	defer ms.changing.Unlock()
	for set := ms.left.Swap(0) &^ ms.peers.Load(); set != 0; set &= set - 1 {
		n.credit.forget(lowest(set))
	}
}
