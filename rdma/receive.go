package rdma

import (
	"encoding/binary"
	"errors"
	"runtime"
	"time"

	"hermesd/replication"
)

var (
	errFrame      = errors.New("a frame that there is no room for, or that is too short: the peer does not keep to the protocol")
	errFrameSum   = errors.New("checksum of a frame does not match: bytes were damaged under way")
	errCredit     = errors.New("the peer has used up more frames than were sent")
	errTooLarge   = errors.New("something in pieces is longer than any message can be")
	errCompletion = errors.New("a completion of what was not sent")
)

// messageMax is the most bytes of a message.
func (ch *channel) messageMax() int {
	return replication.MessageBound(&replication.Message{}) + replication.MaxKey + ch.cfg.ValueMax
}

// pump polls once, and takes note of what has come. The caller holds polling, and sends afterwards what may be sent now (Flush).
func (ch *channel) pump(arm bool) (n int, err error) {
	n, err = ch.wire.poll(ch.receives, arm, ch.completions[:])
	ch.counters.polls.Add(1)
	ch.counters.crossings.Add(1)
	if err != nil {
		return 0, err
	}
	ch.receives = 0
	if n == 0 {
		ch.counters.emptyPolls.Add(1)
		return 0, nil
	}
	ch.counters.completions.Add(uint64(n))
	ch.mu.Lock()
	defer ch.mu.Unlock()
	for i := range ch.completions[:n] {
		if err := ch.take(&ch.completions[i]); err != nil {
			return n, err
		}
	}
	return n, nil
}

// take takes note of one completion. Both locks are held.
func (ch *channel) take(c *completion) error {
	switch {
	case c.status != 0:
		return ch.wire.why(c)
	case c.receive == 0:
		if !ch.out.completed(c.id) {
			return errCompletion
		}
		return nil
	}
	ch.receives++
	kind := c.imm & immKinds
	if kind == immProbe { // of the handshake: nothing had been sent before
		return nil
	}
	if c.imm&immUnused != 0 || kind != immData && kind != immCredit {
		return errFrame
	}
	if !ch.out.credit(c.imm & immCount) {
		return errCredit
	}
	if kind == immCredit {
		return nil
	}
	offset, end, ok := ch.in.arrive(c.length, c.imm&immWrapped != 0)
	if !ok {
		return errFrame
	}
	ch.queue = append(ch.queue, arrived{offset: offset, length: c.length, imm: c.imm, end: end})
	return nil
}

// Read implements replication.Channel.
func (ch *channel) Read(h replication.Handler) error {
	var frames []arrived
	m := replication.Message{From: ch.cfg.Member}
	for {
		var err error
		if frames, err = ch.next(frames[:0]); err != nil {
			return err
		}
		received := false
		for i := range frames {
			n := uint64(0)
			n, err = ch.deliver(h, &frames[i], &m)
			received = received || n > 0
			ch.cfg.Counters.MessagesReceived.Add(n)
			if err != nil {
				break
			}
			if ch.use(frames[i].end) {
				ch.Flush()
			}
		}
		if received {
			h.EndBatch(ch.cfg.Member)
		}
		if err != nil {
			return err
		}
	}
}

// next waits until frames have come, and returns them.
func (ch *channel) next(frames []arrived) ([]arrived, error) {
	if frames = ch.takeQueue(frames); len(frames) > 0 { // Write has polled
		return frames, nil
	}
	if frames = ch.announce(frames); len(frames) > 0 {
		return frames, nil
	}
	ch.polling.Lock()
	defer ch.polling.Unlock()
	ch.readWaits.Store(false)
	var since time.Time // nothing has come; zero: not yet
	for {
		if ch.ended.Load() {
			return nil, ch.Cause()
		}
		n, err := ch.pump(false)
		if err != nil {
			return nil, err
		}
		if frames = ch.takeQueue(frames); len(frames) > 0 {
			if ch.isStuck() {
				ch.Flush() // which tells Write if it does not help
			}
			return frames, nil
		}
		if n > 0 {
			ch.Flush() // credit may have come, or room in the queue
			continue
		}
		if ch.spin > 0 {
			if since.IsZero() {
				since = time.Now()
			}
			if time.Since(since) < ch.spin {
				runtime.Gosched()
				continue
			}
		}
		since = time.Time{}
		if err := ch.sleep(); err != nil {
			return nil, err
		}
	}
}

// announce says that Read waits for polling, and then looks at the queue once more: Write, which may sleep with polling held, looks whether that was said after it
// has put something there and before it sleeps, so one of the two sees the other. If there is something, Read does not wait after all.
func (ch *channel) announce(frames []arrived) []arrived {
	ch.readWaits.Store(true)
	if frames = ch.takeQueue(frames); len(frames) > 0 {
		ch.readWaits.Store(false)
		if ch.isStuck() {
			ch.Flush() // Write may have left it to Read, and is told again
		}
	}
	return frames
}

func (ch *channel) takeQueue(frames []arrived) []arrived {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	frames = append(frames, ch.queue...)
	ch.queue = ch.queue[:0]
	return frames
}

// sleep waits until something has come, or the channel has ended. The caller holds polling.
func (ch *channel) sleep() error {
	n, err := ch.pump(true) // arming a queue that holds a completion brings no event
	if err != nil {
		return err
	}
	if n > 0 {
		ch.Flush()
		return nil
	}
	ch.counters.waits.Add(1)
	ch.counters.crossings.Add(2) // one that finds nothing, and one that takes the event
	if err := ch.wire.wait(); err != nil {
		if cause := ch.Cause(); cause != nil {
			return cause
		}
		return err
	}
	return nil
}

// deliver hands over the messages of a frame, and says how many.
func (ch *channel) deliver(h replication.Handler, f *arrived, m *replication.Message) (count uint64, err error) {
	frame := ch.recv[f.offset : f.offset+int(f.length)]
	ch.counters.bytesReceived.Add(uint64(f.length))
	ch.cfg.Counters.BytesReceived.Add(uint64(f.length))
	if int(binary.LittleEndian.Uint32(frame)) != len(frame)-frameHead {
		return 0, errFrame
	}
	if checksum(frame, f.imm) != binary.LittleEndian.Uint32(frame[4:]) {
		return 0, errFrameSum
	}
	ch.cfg.Counters.BatchesReceived.Add(1)
	payload := frame[frameHead:]
	if f.imm&immMore != 0 || len(ch.assembly) > 0 {
		if len(ch.assembly)+len(payload) > ch.messageMax()+frameTarget {
			return 0, errTooLarge
		}
		ch.assembly = append(ch.assembly, payload...)
		if f.imm&immMore != 0 {
			return 0, nil
		}
		payload = ch.assembly
		// What a large value needed is given back.
		defer func() { ch.assembly = nil }()
	}
	count, err = replication.HandOver(h, payload, m, ch.cfg.ValueMax, &ch.ended)
	if err == nil && ch.ended.Load() {
		err = ch.Cause()
	}
	return count, err
}

// use takes note that a frame has been handed over; true: the peer must be told by a flush.
func (ch *channel) use(end uint64) bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.in.use(end)
	if ch.in.owes() {
		ch.owes = true
	}
	return ch.owes
}

func (ch *channel) isStuck() bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	return ch.dead == nil && ch.waits()
}

// Write implements replication.Channel. It polls only while something waits for credit or a slot, and Read does not: Read gets polling as soon as it wants
// it and Write wakes up, and sees to what waits itself.
func (ch *channel) Write() {
	for {
		select {
		case <-ch.done:
			return
		case <-ch.stuck:
		}
		// It may be that Flush has only left off, and needs nothing from anybody: that must not wait until Read, which may sleep, gives up polling.
		for ch.Flush(); ch.isStuck() && !ch.readWaits.Load(); ch.Flush() {
			ch.polling.Lock()
			var err error
			if ch.isStuck() { // Read may have seen to it
				if err = ch.pumpOrSleep(); err != nil {
					ch.Break(err)
				}
			}
			ch.polling.Unlock()
			if err != nil {
				break
			}
		}
	}
}

func (ch *channel) pumpOrSleep() error {
	n, err := ch.pump(false)
	if err != nil {
		return err
	}
	ch.Flush()
	if n > 0 || !ch.isStuck() || ch.readWaits.Load() {
		return nil
	}
	return ch.sleep()
}
