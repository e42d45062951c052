package views

import (
	"bufio"
	"encoding/gob"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// This file brings heartbeats to the leader, and back their answers. They have connections of their own, without net/rpc, for what an idle group costs is the waking of
// goroutines: there, each message wakes two. Here the goroutine that reads one does all that follows from it.
//
// A connection is a stream of gob each way: Heartbeat there, Answer back, which names its heartbeat by the sender's clock (Answer.Sent).

var beats = linkKind{forBeats, func(l *link, conn net.Conn) caller { return newBeatCaller(l, conn) }}

// beatConn is either end.
type beatConn struct {
	net.Conn
	dec *gob.Decoder // one goroutine reads

	mu  sync.Mutex // of those who write
	out *bufio.Writer
	enc *gob.Encoder
}

func newBeatConn(conn net.Conn) *beatConn {
	b := &beatConn{Conn: conn, dec: gob.NewDecoder(bufio.NewReader(conn)), out: bufio.NewWriter(conn)}
	b.enc = gob.NewEncoder(b.out)
	return b
}

// write sends a message, in one packet. After an error the connection can only be closed.
func (b *beatConn) write(message any) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.enc.Encode(message); err != nil {
		return err
	}
	return b.out.Flush()
}

// beatCaller is the sender's end. The args of its calls are Heartbeat, and the replies *Answer.
type beatCaller struct {
	*beatConn
	link *link

	waiting sync.Mutex
	closed  error
	calls   map[int64]*call // by when they were sent
}

func newBeatCaller(l *link, conn net.Conn) *beatCaller {
	b := &beatCaller{beatConn: newBeatConn(conn), link: l, calls: map[int64]*call{}}
	go b.read()
	return b
}

func (b *beatCaller) begin(c *call) {
	beat := c.args.(Heartbeat)
	b.waiting.Lock()
	err := b.closed
	if err == nil {
		b.calls[beat.Sent] = c
	}
	b.waiting.Unlock()
	if err != nil {
		b.link.finished(b, c, err)
	} else if b.write(beat) != nil {
		b.Close() // read fails, and with it all calls
	}
}

// take returns the call whose answer has come, or nil.
func (b *beatCaller) take(sent int64) *call {
	b.waiting.Lock()
	defer b.waiting.Unlock()
	c := b.calls[sent]
	delete(b.calls, sent)
	return c
}

func (b *beatCaller) read() {
	for {
		var a Answer
		if err := b.dec.Decode(&a); err != nil {
			b.fail(err)
			return
		}
		if c := b.take(a.Sent); c != nil {
			*c.reply.(*Answer) = a
			b.link.finished(b, c, nil)
		}
	}
}

func (b *beatCaller) fail(err error) {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	b.waiting.Lock()
	calls := b.calls
	b.calls, b.closed = nil, err
	b.waiting.Unlock()
	b.Close()
	for _, c := range calls {
		b.link.finished(b, c, err)
	}
}

// answer is one on its way back.
type answer struct {
	to *beatConn
	Answer
}

// serveBeats serves a connection until it breaks.
func (d *Driver) serveBeats(conn net.Conn) {
	lazy := d.streams.lazy(conn)
	defer lazy.Close()
	b := newBeatConn(lazy)
	for {
		var beat Heartbeat
		if b.dec.Decode(&beat) != nil {
			return
		}
		d.do(func() {
			d.arrives(beat, func(a Answer) {
				a.Leads = d.raft.State() == raft.Leader
				if a.View.Epoch == beat.Epoch {
					a.View = View{} // it is known there
				}
				d.outbox = append(d.outbox, answer{b, a})
			})
		})
	}
}

// send writes answers. A connection that has failed is closed, and its reader sees it; so has one whose other end does not read what it has asked for.
func (d *Driver) send(answers []answer) {
	for i := range answers {
		a := &answers[i]
		a.to.SetWriteDeadline(time.Now().Add(d.callTimeout()))
		if a.to.write(&a.Answer) != nil {
			a.to.Close()
		}
	}
}
