package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A frame carries a batch of messages of one direction: length 4 bytes, CRC-32C of the payload 4 bytes, payload.
//
// The checksum is worth its price. TCP's own, 16 bits computed by network cards, lets through about one damaged segment
// in 65,536, and a wrong bit in an INV would be stored and served by a replica that believes itself
// valid. CRC-32C is an instruction: it costs some 10 ns for a small frame and 0.1 ns a byte for large ones, against the
// microseconds of the write that carries it. One per frame, not per message, because a frame is read whole or not at all.
const (
	frameHead    = 8
	frameTarget  = 32 << 10 // bytes of payload after which a frame is closed; a larger message has one of its own
	readSize     = 128 << 10
	bufferKept   = 4 << 20   // bytes of capacity above which a buffer that grew for large values is given back at once
	bufferUsual  = 256 << 10 // bytes of capacity above which it is given back once bufferRounds batches in turn needed less
	bufferRounds = 64
	writeChunk   = 1 << 20 // bytes of one blocking write, after which what waits is counted anew
	flushRounds  = 8       // batches that one Flush writes for others before it leaves the rest to the writer
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	errFrameSum  = errors.New("checksum of a batch does not match: bytes were damaged under way")
	errFrameSize = errors.New("batch is longer than any can be")
	errOverflow  = errors.New("too many bytes wait for it: it reads too slowly")
)

// tcpChannel is one connection's life with a peer: from the handshake until it breaks. Its buffers die with it, so nothing
// of it can reach the next.
//
// Sending. Messages are encoded into fill. Whoever finds the channel not busy and takes it becomes its writer for
// a moment: swaps fill and out, and writes out without holding the lock. Meanwhile others go on filling, and a Flush that
// finds the channel busy only marks that it wants to be taken along. When the socket is full, busy passes to the
// writer goroutine, the only one that ever waits for it.
type tcpChannel struct {
	peer   *tcpPeer
	member Member
	conn   *net.TCPConn
	raw    syscall.RawConn

	mu       sync.Mutex
	fill     []byte      // frames being built
	frame    int         // where in fill the open frame begins; -1: none is open
	messages uint64      // in fill
	waiting  int         // bytes in fill and out that the socket has not taken
	busy     bool        // somebody owns out
	want     bool        // Flush was called while busy
	dead     error       // why the channel ended: the first reason
	ended    atomic.Bool // dead is set, for the reader

	// Owned by whoever has set busy.
	out       []byte
	usual     int    // batches in turn that were of usual size
	taken     int    // bytes of out that the socket has taken
	tryBuf    []byte // of tryWrite
	tryN      int
	tryErr    error
	tryWriter func(fd uintptr) bool

	wake chan struct{} // busy is given to the writer goroutine
	done chan struct{} // closed: dead is set

	// Owned by the reader.
	readBuf    []byte
	readN      int
	readErr    error
	readCalls  uint64
	readReader func(fd uintptr) bool
}

// newTCPChannel makes a channel that gathers messages but writes nothing until Open.
func newTCPChannel(p *tcpPeer, member Member, conn *net.TCPConn) (*tcpChannel, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	ch := &tcpChannel{peer: p, member: member, conn: conn, raw: raw, frame: -1, busy: true,
		wake: make(chan struct{}, 1), done: make(chan struct{})}
	// Made once: a function value made for each call would be allocated.
	ch.tryWriter = func(fd uintptr) bool {
		for {
			ch.tryN, ch.tryErr = syscall.Write(int(fd), ch.tryBuf)
			if ch.tryErr != syscall.EINTR {
				return true // never wait: the rest is the writer's
			}
		}
	}
	ch.readReader = func(fd uintptr) bool {
		for {
			ch.readCalls++
			ch.readN, ch.readErr = syscall.Read(int(fd), ch.readBuf)
			if ch.readErr != syscall.EINTR {
				return ch.readErr != syscall.EAGAIN
			}
		}
	}
	return ch, nil
}

// Send implements Channel.
func (ch *tcpChannel) Send(m *Message) bool {
	ch.mu.Lock()
	if ch.dead != nil {
		ch.mu.Unlock()
		return false
	}
	if ch.waiting >= ch.peer.transport.cfg.OutLimit {
		ch.mu.Unlock()
		ch.peer.stats.Overflows.Add(1)
		ch.Break(errOverflow)
		return false
	}
	before := len(ch.fill)
	if len(m.Value) >= frameTarget {
		ch.closeFrame() // what came before need not wait for all of a large value to be read
	}
	if ch.frame < 0 {
		ch.frame = len(ch.fill)
		ch.fill = append(ch.fill, make([]byte, frameHead)...)
	}
	ch.fill = AppendMessage(ch.fill, m)
	if len(ch.fill)-ch.frame >= frameTarget {
		ch.closeFrame()
	}
	ch.messages++
	ch.waiting += len(ch.fill) - before
	ch.mu.Unlock()
	return true
}

// closeFrame writes the open frame's length; its checksum is left to the writer, who does not hold the lock.
func (ch *tcpChannel) closeFrame() {
	if ch.frame >= 0 {
		binary.LittleEndian.PutUint32(ch.fill[ch.frame:], uint32(len(ch.fill)-ch.frame-frameHead))
		ch.frame = -1
	}
}

// take makes what is in fill the out of the caller, who owns busy. The lock is held.
func (ch *tcpChannel) take() {
	ch.closeFrame()
	ch.fill, ch.out, ch.taken = ch.out[:0], ch.fill, 0
	if ch.usual++; len(ch.out) > bufferUsual {
		ch.usual = 0
	}
	if n := cap(ch.fill); n > bufferKept || n > bufferUsual && ch.usual > bufferRounds {
		ch.fill = nil
	}
	ch.peer.stats.MessagesSent.Add(ch.messages)
	ch.messages, ch.want = 0, false
}

// seal computes the checksums of the frames in out.
func (ch *tcpChannel) seal() {
	frames := uint64(0)
	for b := ch.out; len(b) > 0; frames++ {
		end := frameHead + int(binary.LittleEndian.Uint32(b))
		binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[frameHead:end], castagnoli))
		b = b[end:]
	}
	ch.peer.stats.BatchesSent.Add(frames)
}

// Flush implements Channel. If somebody else is writing, he takes along what is in fill.
func (ch *tcpChannel) Flush() {
	ch.mu.Lock()
	if ch.busy || len(ch.fill) == 0 || ch.dead != nil {
		ch.want = ch.busy
		ch.mu.Unlock()
		return
	}
	ch.busy = true
	for round := 0; ; round++ {
		ch.take()
		ch.mu.Unlock()
		ch.seal()
		n, err := ch.tryWrite(ch.out)
		if err != nil {
			ch.Break(fmt.Errorf("write: %w", err))
			return // and stays busy: the channel is dead
		}
		ch.mu.Lock()
		ch.waiting -= n
		if n < len(ch.out) {
			ch.taken = n
			ch.handOver()
			return
		}
		if !ch.want || len(ch.fill) == 0 {
			ch.busy = false
			ch.mu.Unlock()
			return
		}
		if round == flushRounds {
			ch.taken = n
			ch.handOver()
			return
		}
	}
}

// handOver gives busy to the writer goroutine. It releases the lock.
func (ch *tcpChannel) handOver() {
	ch.mu.Unlock()
	ch.wake <- struct{}{} // has room: busy is given only by the one who has it
}

// tryWrite makes one write(2) that does not block; n is 0 if the socket is full.
func (ch *tcpChannel) tryWrite(b []byte) (n int, err error) {
	ch.tryBuf = b
	err = ch.raw.Write(ch.tryWriter)
	ch.tryBuf = nil
	stats := &ch.peer.stats
	stats.writeCalls.Add(1)
	switch {
	case err != nil:
		return 0, err
	case ch.tryErr == syscall.EAGAIN:
		return 0, nil
	case ch.tryErr != nil:
		return 0, ch.tryErr
	}
	stats.BytesSent.Add(uint64(ch.tryN))
	return ch.tryN, nil
}

// Write implements Channel: it writes what the socket did not take. It has busy from a wake until nothing is left.
func (ch *tcpChannel) Write() {
	for {
		select {
		case <-ch.done:
			return
		case <-ch.wake:
		}
		for more := true; more; {
			if err := ch.writeOut(); err != nil {
				ch.Break(fmt.Errorf("write: %w", err))
				return
			}
			ch.mu.Lock()
			if more = len(ch.fill) > 0; more {
				ch.take()
			} else {
				ch.busy, ch.want = false, false
			}
			ch.mu.Unlock()
			if more {
				ch.seal()
			}
		}
	}
}

// writeOut writes all of out, waiting for the socket, and lets the lock's holders see how far it has come.
func (ch *tcpChannel) writeOut() error {
	for b := ch.out[ch.taken:]; len(b) > 0; {
		n, err := ch.conn.Write(b[:min(len(b), writeChunk)])
		ch.peer.stats.writeCalls.Add(1)
		ch.peer.stats.BytesSent.Add(uint64(n))
		ch.mu.Lock()
		ch.waiting -= n
		ch.mu.Unlock()
		if err != nil {
			return err
		}
		b = b[n:]
	}
	ch.taken = len(ch.out)
	return nil
}

// Open implements Channel.
func (ch *tcpChannel) Open() {
	ch.mu.Lock()
	ch.handOver()
}

// Close implements Channel: there is nothing to free.
func (ch *tcpChannel) Close() {}

// Break implements Channel. It makes no system call (a deadline is the runtime's own), so Send may
// call it: the reader and the writer wake up with errors, and the reader does the rest.
func (ch *tcpChannel) Break(reason error) {
	ch.mu.Lock()
	first := ch.dead == nil
	if first {
		ch.dead = reason
		ch.ended.Store(true)
		close(ch.done)
	}
	ch.mu.Unlock()
	if first {
		_ = ch.conn.SetDeadline(time.Unix(1, 0))
	}
}

// Cause implements Channel.
func (ch *tcpChannel) Cause() error {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	return ch.dead
}

// Read implements Channel.
func (ch *tcpChannel) Read(h Handler) error {
	var (
		stats    = &ch.peer.stats
		base     = make([]byte, readSize)
		buf      = base
		from, to int // buf[from:to] has been read but not handed over
		small    int // reads since a frame needed more than base
		m        = Message{From: ch.member}
		limit    = frameTarget + codecHeadMax + MaxKey + ch.peer.transport.cfg.ValueMax
	)
	for {
		n, err := ch.readSome(buf[to:])
		stats.readCalls.Add(ch.readCalls)
		ch.readCalls = 0
		if err != nil {
			return err
		}
		stats.BytesReceived.Add(uint64(n))
		to += n
		before := from
		missing := 0
		for missing == 0 && err == nil {
			var frame []byte
			if frame, missing, err = nextFrame(buf[from:to], limit); frame != nil {
				from += frameHead + len(frame)
				err = ch.deliver(h, frame, &m)
			}
		}
		if from != before {
			h.EndBatch(ch.member)
		}
		if err != nil {
			return err
		}
		switch {
		case from == to:
			from, to = 0, 0
			if small++; len(buf) > bufferKept || small > bufferRounds {
				buf = base // those that a large value needed are given back
			}
		case to-from+missing > len(base):
			small = 0
			fallthrough
		default:
			buf, from, to = makeRoom(buf, from, to, missing)
		}
	}
}

// makeRoom arranges that the rest of a frame, of which missing bytes have not been read, can be read into buf[to:], a part of
// it at least: a buffer grows only as bytes come, not because a length promises them.
func makeRoom(buf []byte, from, to, missing int) ([]byte, int, int) {
	held := to - from
	if len(buf)-to >= min(missing, len(buf)/4) && to < len(buf) {
		return buf, from, to
	}
	grown := buf
	if held+missing > len(buf) && held > len(buf)/2 {
		grown = make([]byte, min(held+missing, 2*len(buf)))
	}
	copy(grown, buf[from:to])
	return grown, 0, held
}

// nextFrame returns the payload of the frame at the beginning of b; or how many bytes are missing; or why it is no frame.
func nextFrame(b []byte, limit int) (payload []byte, missing int, err error) {
	if len(b) < frameHead {
		return nil, frameHead - len(b), nil
	}
	size := int(binary.LittleEndian.Uint32(b))
	if size == 0 || size > limit {
		return nil, 0, errFrameSize
	}
	if missing = frameHead + size - len(b); missing > 0 {
		return nil, missing, nil
	}
	payload = b[frameHead : frameHead+size]
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return nil, 0, errFrameSum
	}
	return payload, 0, nil
}

// deliver hands over the messages of one frame, as long as the channel lives.
func (ch *tcpChannel) deliver(h Handler, frame []byte, m *Message) error {
	count, err := HandOver(h, frame, m, ch.peer.transport.cfg.ValueMax, &ch.ended)
	ch.peer.stats.MessagesReceived.Add(count)
	switch {
	case err != nil:
		return err
	case ch.ended.Load():
		return ch.Cause()
	}
	ch.peer.stats.BatchesReceived.Add(1)
	return nil
}

// readSome makes one read, waiting for something to come.
func (ch *tcpChannel) readSome(b []byte) (n int, err error) {
	ch.readBuf = b
	err = ch.raw.Read(ch.readReader)
	ch.readBuf = nil
	switch {
	case err != nil:
		return 0, err
	case ch.readErr != nil:
		return 0, ch.readErr
	case ch.readN == 0:
		return 0, io.EOF
	}
	return ch.readN, nil
}
