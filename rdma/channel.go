package rdma

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"sync/atomic"
	"time"

	"hermesd/replication"
)

const (
	frameTarget = 32 << 10 // bytes after which a frame is closed; a larger message has one of its own
	flushRounds = 8        // posts that one Flush makes for others before it leaves the rest to Write
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	errOverflow = errors.New("too many bytes wait for it: it reads too slowly")
	errClosed   = errors.New("closed")
)

// channel implements replication.Channel over a wire.
//
// Sending. Messages are encoded into the open frame of the ring, or, if there is no room or something waits there already, into the overflow. Whoever
// finds the channel not busy and takes it posts the frames, without holding the lock; others go on encoding behind them meanwhile, and a Flush that finds
// the channel busy only marks that it wants to be taken along.
//
// Receiving. Whoever holds polling may poll and wait, and notes what has come in the queue; only Read hands it over. That is Read itself, which waits
// with polling held, and flushes when credit comes; but while it hands over, which may take long, Write polls where there is an overflow, for the credit to
// send it, and the watch does for signs of life. So a handler that waits in Receive stops neither its own sending nor the notice that the peer is gone.
type channel struct {
	cfg      replication.ChannelConfig
	wire     wire
	counters *Counters
	spin     time.Duration
	send     []byte // the rings
	recv     []byte
	target   int // frameTarget, or what the ring allows
	inline   uint32

	mu       sync.Mutex
	out      *sendRing
	in       *recvRing
	open     openFrame
	ready    []request // frames made and not posted
	overflow overflow
	messages uint64 // enqueued since they were last counted
	busy     bool   // somebody posts; at first: Open has not been called
	want     bool   // Flush was called while busy
	owes     bool   // the peer is to be told what was used up, frame or not
	sign     bool   // a sign of life is to be sent
	dead     error
	ended    atomic.Bool
	closed   bool
	idle     sync.Cond // busy has become false
	queue    []arrived // frames that have come and that Read has not taken

	requests [postMax]request // owned by whoever has set busy

	polling     sync.Mutex
	readWaits   atomic.Bool // Read waits for polling, and Write must leave it to it
	completions [pollMax]completion
	receives    int // receive requests used up and not posted again; guarded by polling

	stuck chan struct{} // Write has something to do
	done  chan struct{} // closed: dead is set

	// The watch's.
	lastDone uint64
	quiet    int // looks since something was last heard of

	assembly []byte // Read's: the parts of something larger
}

// openFrame is the frame that Send appends to.
type openFrame struct {
	at   uint64
	buf  []byte // in the ring, head included; nil: none is open
	room int    // bytes that it may have
}

// arrived is a frame that has come.
type arrived struct {
	offset int
	length uint32
	imm    uint32
	end    uint64
}

// newChannel makes a channel of a wire of which so many receive requests have been used up.
func newChannel(w wire, o *Options, counters *Counters, receives int, cfg replication.ChannelConfig) *channel {
	ch := &channel{cfg: cfg, wire: w, counters: counters, spin: o.Spin, inline: uint32(w.inlineMax()), busy: true, receives: receives,
		out: newSendRing(o.RingBytes, o.Depth), in: newRecvRing(o.RingBytes, o.Depth), stuck: make(chan struct{}, 1), done: make(chan struct{})}
	ch.idle.L = &ch.mu
	ch.send, ch.recv = w.rings()
	ch.target = min(frameTarget, ch.out.frameMax())
	return ch
}

// Send implements replication.Channel.
func (ch *channel) Send(m *replication.Message) bool {
	bound := replication.MessageBound(m)
	ch.mu.Lock()
	if ch.dead != nil {
		ch.mu.Unlock()
		return false
	}
	if !ch.encode(m, bound) {
		if ch.overflow.bytes >= ch.cfg.OutLimit {
			ch.mu.Unlock()
			ch.cfg.Counters.Overflows.Add(1)
			ch.Break(errOverflow)
			return false
		}
		ch.overflow.add(m, bound)
		ch.counters.overflowed.Add(1)
	}
	ch.messages++
	ch.mu.Unlock()
	return true
}

// encode appends m to the open frame, or to one that it opens; false: there is no room, or it would overtake what waits for some.
func (ch *channel) encode(m *replication.Message, bound int) bool {
	if len(ch.overflow.frames) > 0 || frameHead+bound > ch.out.frameMax() {
		ch.closeFrame()
		return false
	}
	if f := &ch.open; f.buf != nil && (len(f.buf)+bound > f.room || len(m.Value) >= frameTarget) {
		ch.closeFrame() // what came before a large value need not wait for all of it
	}
	if ch.open.buf == nil && !ch.openFrame(frameHead+bound) {
		return false
	}
	f := &ch.open
	f.buf = replication.AppendMessage(f.buf, m)
	if len(f.buf) >= ch.target {
		ch.closeFrame()
	}
	return true
}

// openFrame begins a frame with room for bound bytes, its head included.
func (ch *channel) openFrame(bound int) bool {
	at, room, ok := ch.out.place(bound)
	if !ok {
		return false
	}
	offset := int(at % ch.out.size)
	room = min(room, ch.out.frameMax())
	ch.open = openFrame{at: at, buf: ch.send[offset : offset+frameHead : offset+room], room: room}
	return true
}

// closeFrame makes the open frame ready to be posted.
func (ch *channel) closeFrame() {
	if ch.open.buf != nil {
		ch.finishFrame(0)
	}
}

func (ch *channel) finishFrame(imm uint32) {
	f := &ch.open
	if ch.out.add(f.at, len(f.buf)) {
		imm |= immWrapped
	}
	binary.LittleEndian.PutUint32(f.buf, uint32(len(f.buf)-frameHead))
	ch.ready = append(ch.ready, request{offset: uint32(f.at % ch.out.size), length: uint32(len(f.buf)), imm: imm | immData, flags: requestImmediate})
	f.buf = nil
}

// refill moves as much of the overflow to the ring as there is room for.
func (ch *channel) refill() {
	for len(ch.overflow.frames) > 0 {
		ch.closeFrame()
		rest := ch.overflow.first()
		n, imm := len(rest), uint32(0)
		if most := ch.out.frameMax() - frameHead; n > most {
			n, imm = most, immMore
		}
		if !ch.openFrame(frameHead + n) {
			return
		}
		ch.open.buf = append(ch.open.buf, rest[:n]...)
		ch.finishFrame(imm)
		ch.overflow.take(n)
	}
}

// Flush implements replication.Channel.
func (ch *channel) Flush() {
	ch.mu.Lock()
	if ch.busy || ch.dead != nil {
		ch.want = true
		ch.mu.Unlock()
		return
	}
	if !ch.hasWork() {
		ch.mu.Unlock()
		return
	}
	ch.busy = true
	ch.post()
}

func (ch *channel) hasWork() bool { return ch.open.buf != nil || ch.waits() }

// waits reports whether there is something to post that Flush has not, for want of credit or of a slot.
func (ch *channel) waits() bool {
	return len(ch.ready) > 0 || len(ch.overflow.frames) > 0 || ch.owes || ch.sign
}

// post posts what there is and gives busy back. The caller has set busy, and holds the lock, which is released.
func (ch *channel) post() {
	for round := 0; ; round++ {
		ch.want = false
		ch.refill()
		ch.closeFrame()
		first := ch.out.posted
		n := ch.gather()
		ch.cfg.Counters.MessagesSent.Add(ch.messages)
		ch.messages = 0
		if n == 0 || ch.dead != nil {
			break
		}
		ch.mu.Unlock()
		ch.seal(ch.requests[:n])
		err := ch.wire.post(first, ch.requests[:n])
		ch.count(ch.requests[:n])
		if err != nil {
			ch.Break(err)
		}
		ch.mu.Lock()
		if more := ch.want || len(ch.ready) > 0 || len(ch.overflow.frames) > 0; !more {
			break
		}
		if round == flushRounds {
			break // Write goes on
		}
	}
	ch.busy = false
	stuck := ch.waits() || ch.want
	ch.idle.Broadcast()
	ch.mu.Unlock()
	if stuck {
		select {
		case ch.stuck <- struct{}{}:
		default: // it knows
		}
	}
}

// gather makes requests of what is to be posted, in requests. They take along the credit.
func (ch *channel) gather() (n int) {
	for n < min(len(ch.ready), postMax) && ch.out.mayPost() {
		q := ch.ready[n]
		q.imm |= ch.in.say()
		if q.length <= ch.inline {
			q.flags |= requestInline
		}
		if ch.out.post(true, false) {
			q.flags |= requestSignalled
		}
		ch.requests[n] = q
		n++
	}
	ch.ready = append(ch.ready[:0], ch.ready[n:]...)
	if n > 0 {
		ch.owes = false
	} else if ch.owes && ch.out.mayPost() {
		ch.owes = false
		ch.requests[n] = request{imm: immCredit | ch.in.say(), flags: requestImmediate}
		if ch.out.post(false, false) {
			ch.requests[n].flags |= requestSignalled
		}
		n++
		ch.counters.credits.Add(1)
	}
	if ch.sign && n < postMax && ch.out.mayPost() {
		ch.sign = false
		ch.out.post(false, true)
		ch.requests[n] = request{flags: requestSignalled}
		n++
		ch.counters.signs.Add(1)
	}
	return n
}

// seal computes the frames' checksums.
func (ch *channel) seal(requests []request) {
	for i := range requests {
		if q := &requests[i]; q.length > 0 {
			frame := ch.send[q.offset : q.offset+q.length]
			binary.LittleEndian.PutUint32(frame[4:], checksum(frame, q.imm))
		}
	}
}

// checksum is that of a frame's payload and of its immediate value.
func checksum(frame []byte, imm uint32) uint32 {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], imm)
	return crc32.Update(crc32.Checksum(frame[frameHead:], castagnoli), castagnoli, b[:])
}

func (ch *channel) count(requests []request) {
	var bytes, frames, inlined, signalled uint64
	for i := range requests {
		q := &requests[i]
		if bytes += uint64(q.length); q.length > 0 {
			frames++
		}
		if q.flags&requestInline != 0 {
			inlined++
		}
		if q.flags&requestSignalled != 0 {
			signalled++
		}
	}
	c := ch.counters
	c.posts.Add(1)
	c.crossings.Add(1)
	c.requests.Add(uint64(len(requests)))
	c.inlined.Add(inlined)
	c.signalled.Add(signalled)
	c.bytesSent.Add(bytes)
	ch.cfg.Counters.BytesSent.Add(bytes)
	ch.cfg.Counters.BatchesSent.Add(frames)
}

// Open implements replication.Channel.
func (ch *channel) Open() {
	ch.mu.Lock()
	if ch.dead != nil {
		ch.busy = false
		ch.mu.Unlock()
		return
	}
	ch.post()
}

// Break implements replication.Channel.
func (ch *channel) Break(reason error) {
	ch.mu.Lock()
	first := ch.dead == nil
	if first {
		ch.dead = reason
		ch.ended.Store(true)
		close(ch.done)
		if !ch.closed {
			ch.wire.wake()
		}
	}
	ch.mu.Unlock()
	if first && ch.cfg.Ended != nil {
		ch.cfg.Ended()
	}
}

// Cause implements replication.Channel.
func (ch *channel) Cause() error {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	return ch.dead
}

// Close implements replication.Channel.
func (ch *channel) Close() {
	ch.Break(errClosed)
	ch.polling.Lock() // the watch may be polling
	ch.mu.Lock()
	for ch.busy && ch.out.posted > 0 { // Open may never have been called, and then nobody posts
		ch.idle.Wait()
	}
	ch.closed = true
	ch.mu.Unlock()
	ch.wire.close()
	ch.polling.Unlock()
}

// look is the watch, which the device's clock calls looksPerSilence times in silence: it breaks a channel whose device has not said for as long what has become of
// something that was sent, and sends something if nothing is. It counts looks and not time: after a pause of the whole process, or machine, the device has long since
// said it, and only nobody has listened.
func (ch *channel) look(silence time.Duration) {
	if ch.ended.Load() {
		return
	}
	// While Read hands something over, and there is no overflow, nobody else polls.
	if ch.polling.TryLock() {
		if !ch.ended.Load() {
			if _, err := ch.pump(false); err != nil {
				ch.Break(err)
			}
		}
		ch.polling.Unlock()
	}
	ch.mu.Lock()
	if ch.busy && ch.out.posted == 0 || ch.dead != nil {
		ch.mu.Unlock()
		return
	}
	if ch.out.done != ch.lastDone {
		ch.lastDone, ch.quiet = ch.out.done, 0
	}
	if ch.quiet++; ch.quiet > looksPerSilence {
		ch.mu.Unlock()
		ch.Break(fmt.Errorf("the device has not said for %v what became of what was sent: the path to the peer is silent", silence))
		return
	}
	// A signalled request is under way, or one is sent now; its completion counts as a sign of life.
	if ch.out.unsigned > 0 || ch.out.done == ch.out.posted {
		ch.sign = true
	}
	ch.mu.Unlock()
	ch.Flush()
}
