package server

import (
	"context"
	"time"

	"github.com/cloudwego/netpoll"

	"hermesd/textproto"
)

const (
	// passInputBytes and passOutputBytes bound what one pass on a poller does for one client, so that the others get their turn
	// (memcached's -R, in bytes): after so much input the rest is left in the socket until the poller comes round again; after so
	// much output the client's keeper goes on.
	passInputBytes  = 256 << 10
	passOutputBytes = 1 << 20
)

// onRequest is netpoll's: there is input, part of which it has read. It runs on the poller, except when the socket is taken out of
// netpoll (detach.go). It must leave nothing in netpoll's buffer.
func onRequest(ctx context.Context, nc netpoll.Connection) error {
	c := connOf(ctx)
	reader := nc.Reader()
	chunk, err := reader.Next(reader.Len())
	if err != nil {
		return err // there is always as much as Len says
	}
	if !c.trouble.Load() || !c.bring(chunk, nc) {
		c.mu.Lock()
		if c.trouble.Load() && c.bring(chunk, nc) { // trouble came while we waited
			c.mu.Unlock()
		} else {
			c.pass(chunk)
			c.unlock()
		}
	}
	return reader.Release()
}

// pass takes what netpoll has read, and runs it.
func (c *conn) pass(chunk []byte) {
	w := c.s.worker(int(c.thread.Load()))
	w.add(bytesRead, uint64(len(chunk)))
	w.add(passes, 1)
	w.add(reads, 1)
	more := c.socketHasMore(len(chunk))
	if !c.closing {
		c.take(w, chunk, more)
	}
	if w.submitted {
		w.submitted = false
		c.s.flushers[c.thread.Load()].want()
	}
	c.finish(w)
	c.s.release(w)
}

// begin makes a worker ready for a pass.
func (w *worker) begin() {
	w.now = uint32(time.Now().Unix())
	w.submitted, w.written = false, 0
}

// socketHasMore guesses whether a read of n bytes by netpoll was as short as it was because netpoll's buffer had no room for more. It
// reads into a buffer of netpollBytes, from where it last stopped to the end, and begins another then. A wrong guess costs a system
// call, or an event.
func (c *conn) socketHasMore(n int) bool {
	c.readPos = (c.readPos + n) & (netpollBytes - 1)
	return c.readPos == 0
}

// take runs the requests in the connection's input and chunk. What is left is the connection's input then. more: there is
// probably more in the socket.
func (c *conn) take(w *worker, chunk []byte, more bool) {
	if len(c.in) != 0 {
		if c.mustPause() || len(c.in)+len(chunk) > len(w.in) || c.parser.Want() > len(w.in) {
			c.in = append(c.in, chunk...)
			c.takeLarge(w)
			return
		}
		n := copy(w.in, c.in)
		n += copy(w.in[n:], chunk)
		chunk = w.in[:n]
		c.clearInput()
	}
	if c.mustPause() {
		c.keepInput(chunk)
		c.runnable = true
		return
	}
	for budget := passInputBytes; ; {
		rest := c.run(w, chunk)
		switch {
		case len(rest) == 0 && !(more && c.parser.Swallowing()):
			return
		case c.closing:
			return
		case c.mustPause():
			c.keepInput(rest)
			c.runnable = len(rest) != 0 // while a data block is swallowed there may be nothing
			return
		case c.parser.Want() > len(w.in):
			c.keepInput(rest)
			c.takeLarge(w)
			return
		case !more || budget <= 0:
			c.keepInput(rest)
			return
		}
		n := copy(w.in, rest)
		got := receive(c.fd, w.in[n:])
		w.add(reads, 1)
		if got == 0 {
			c.keepInput(w.in[:n])
			return
		}
		w.add(bytesRead, uint64(got))
		more = got == len(w.in)-n
		budget -= got
		chunk = w.in[:n+got]
	}
}

// takeLarge runs c.in, which holds the beginning of a request too large for a worker's buffer, or input that has waited. The
// rest of a large request is read from the socket to where it belongs.
func (c *conn) takeLarge(w *worker) {
	for !c.mustPause() && !c.closing {
		rest := c.run(w, c.in)
		if c.closing {
			break
		}
		c.keepInput(rest)
		if c.mustPause() {
			break
		}
		c.runnable = false
		want := c.parser.Want()
		if len(rest) == 0 || want <= len(w.in) || c.trouble.Load() {
			return
		}
		c.growInput(want)
		got := receive(c.fd, c.in[len(c.in):min(cap(c.in), want)])
		w.add(reads, 1)
		if got == 0 {
			return
		}
		w.add(bytesRead, uint64(got))
		c.in = c.in[:len(c.in)+got]
	}
	c.runnable = len(c.in) != 0 && !c.closing
}

// keepInput makes b the connection's input. b may be part of what is it already.
func (c *conn) keepInput(b []byte) {
	switch {
	case len(b) == 0:
		c.clearInput()
	case len(c.in) != 0 && &c.in[len(c.in)-1] == &b[len(b)-1]:
		c.in = b
	default:
		c.in = append(c.in[:0], b...)
	}
}

// clearInput empties the connection's input, and gives up its memory if it is large.
func (c *conn) clearInput() {
	if cap(c.in) > keptInput {
		c.in = nil
	}
	c.in = c.in[:0]
}

// growInput makes room for a request of want bytes. It does so in steps: a client that announces a large value and does not
// send it has not earned the memory.
func (c *conn) growInput(want int) {
	const step = 4
	if cap(c.in) < want && cap(c.in) < 2*len(c.in) {
		c.in = append(make([]byte, 0, min(want, max(inputBytes, step*len(c.in)))), c.in...)
	}
}

// run runs the whole requests at the front of data, and returns the rest: the beginning of a request, or more if mustPause.
func (c *conn) run(w *worker, data []byte) (rest []byte) {
	w.serves = c.s.store.Serves() // by a clock reading that is later than the reading of the data
	for {
		n, st := c.parser.Next(data, &w.req)
		data = data[n:]
		switch st {
		case textproto.More:
			return data
		case textproto.Ready:
			data = c.execute(w, data)
		case textproto.Reply:
			c.reply(w, w.req.Reply)
		case textproto.TooLarge:
			c.tooLarge(w)
		case textproto.Close:
			c.closing = true
		}
		if c.closing {
			return nil
		}
		if c.crowded(w) {
			return data
		}
	}
}
