package bench

import (
	"fmt"
	"net"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// operation is one request of a batch. size is of the value that a set writes.
type operation struct {
	key  uint64
	size uint32
	set  bool
}

type connState uint8

const (
	down connState = iota
	connecting
	open
)

// conn is one connection: what of its batch is built, sent and answered.
type conn struct {
	addr    *net.TCPAddr
	index   int32 // in thread.conns
	fd      int   // -1 when there is none
	state   connState
	writing bool          // EPOLLOUT is asked for
	retryAt time.Duration // when state is down

	batch    []operation
	built    int           // of batch, how many are in the output
	answered int           // of batch
	waiting  bool          // for the answers to batch
	sent     time.Duration // when the batch was begun
	pending  []byte        // output that the socket has not taken

	// Where the reply being read stands: see reply.go.
	carry []byte // input that is not yet enough to go on with
	part  replyPart
	size  uint32 // of the value
	left  int    // bytes of the value's body still to come
	salt  uint32
	bad   bool // the value differs from what was written
}

// connect opens a socket and begins to connect it; c.state is open or connecting then.
func (t *thread) connect(c *conn) error {
	var sa unix.Sockaddr
	family := unix.AF_INET
	if ip := c.addr.IP.To4(); ip != nil || c.addr.IP == nil {
		v4 := &unix.SockaddrInet4{Port: c.addr.Port, Addr: [4]byte{127, 0, 0, 1}}
		copy(v4.Addr[:], ip)
		sa = v4
	} else {
		family = unix.AF_INET6
		v6 := &unix.SockaddrInet6{Port: c.addr.Port}
		copy(v6.Addr[:], c.addr.IP.To16())
		sa = v6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w (too many connections for `ulimit -n`?)", err)
	}
	c.fd, c.state, c.writing = fd, connecting, true
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	err = unix.EpollCtl(t.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT, Fd: c.index})
	if err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	switch err = unix.Connect(fd, sa); err {
	case nil:
		return t.connected(c)
	case unix.EINPROGRESS:
		return nil
	}
	return fmt.Errorf("connect to %v: %w", c.addr, err)
}

// connected ends the connecting of c.
func (t *thread) connected(c *conn) error {
	errno, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && errno != 0 {
		err = unix.Errno(errno)
	}
	if err != nil {
		return fmt.Errorf("connect to %v: %w", c.addr, err)
	}
	c.state = open
	t.wantWrite(c, false)
	return nil
}

// wantWrite asks epoll to tell when the socket takes output again, or not to.
func (t *thread) wantWrite(c *conn, want bool) {
	if c.writing == want {
		return
	}
	c.writing = want
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: c.index}
	if want {
		ev.Events |= unix.EPOLLOUT
	}
	if err := unix.EpollCtl(t.epoll, unix.EPOLL_CTL_MOD, c.fd, &ev); err != nil {
		t.lose(c, "epoll_ctl: "+err.Error())
	}
}

// event handles what epoll told of the connection.
func (t *thread) event(c *conn, events uint32) {
	if c.state == connecting {
		if err := t.connected(c); err != nil {
			t.lose(c, err.Error())
			return
		}
		t.begin(c)
		return
	}
	if events&unix.EPOLLOUT != 0 && c.state == open {
		t.flush(c)
	}
	if events&^unix.EPOLLOUT != 0 && c.state == open {
		t.receive(c)
	}
}

// send builds what is not yet built of the batch and writes it, as far as the socket takes it.
func (t *thread) send(c *conn) {
	for c.built < len(c.batch) {
		t.out = t.out[:0]
		for c.built < len(c.batch) && len(t.out) < writeSize {
			t.out = t.appendRequest(t.out, &c.batch[c.built])
			c.built++
		}
		n, ok := t.write(c, t.out)
		if !ok {
			return
		}
		if n < len(t.out) {
			c.pending = append(c.pending[:0], t.out[n:]...)
			t.wantWrite(c, true)
			return
		}
	}
}

// appendRequest builds a request.
func (t *thread) appendRequest(dst []byte, o *operation) []byte {
	if !o.set {
		dst = append(dst, "get "...)
		dst = t.plan.keys.append(dst, o.key)
		return append(dst, "\r\n"...)
	}
	dst = append(dst, "set "...)
	dst = t.plan.keys.append(dst, o.key)
	dst = append(dst, " 0 0 "...)
	dst = appendNumber(dst, o.size)
	dst = append(dst, "\r\n"...)
	dst = t.plan.values.append(dst, o.key, o.size, uint32(t.random.next()))
	return append(dst, "\r\n"...)
}

func appendNumber(dst []byte, v uint32) []byte {
	var text [10]byte
	i := len(text)
	for {
		i--
		text[i] = '0' + byte(v%10)
		if v /= 10; v == 0 {
			return append(dst, text[i:]...)
		}
	}
}

// flush writes what the socket has not taken before, and goes on with the batch.
func (t *thread) flush(c *conn) {
	n, ok := t.write(c, c.pending)
	if !ok {
		return
	}
	if c.pending = c.pending[n:]; len(c.pending) > 0 {
		return
	}
	c.pending = nil
	if t.send(c); c.state == open && c.pending == nil {
		t.wantWrite(c, false)
	}
}

// write writes without blocking. ok is false when the connection is lost.
func (t *thread) write(c *conn, b []byte) (n int, ok bool) {
	n, errno := rawIO(unix.SYS_WRITE, c.fd, b)
	t.counts.writes++
	if errno != 0 && errno != unix.EAGAIN && errno != unix.EINTR {
		t.lose(c, "write: "+errno.Error())
		return 0, false
	}
	t.counts.bytesOut += uint64(n)
	return n, true
}

// receive reads once, unless there is more than fits, and when the batch is answered begins the next one.
func (t *thread) receive(c *conn) {
	for {
		kept := copy(t.in, c.carry)
		n, errno := rawIO(unix.SYS_READ, c.fd, t.in[kept:])
		t.counts.reads++
		if errno == unix.EAGAIN || errno == unix.EINTR {
			return
		}
		if errno != 0 || n == 0 {
			cause := "connection closed by the server"
			if errno != 0 {
				cause = "read: " + errno.Error()
			}
			t.lose(c, cause)
			return
		}
		t.now = time.Since(t.plan.base)
		t.counts.bytesIn += uint64(n)
		rest, wrong := t.scan(c, t.in[:kept+n])
		if wrong != "" {
			t.lose(c, wrong)
			return
		}
		c.carry = append(c.carry[:0], rest...)
		if c.answered == len(c.batch) {
			c.waiting = false
			t.busy--
			t.begin(c)
			return
		}
		t.counts.partialReads++
		if kept+n < len(t.in) {
			return
		}
	}
}

// lose gives up the connection: what it has not answered stays unanswered, and it is opened again after a while.
func (t *thread) lose(c *conn, cause string) {
	if c.state == open {
		t.counts.disconnects++
	}
	t.counts.complain(cause)
	t.counts.unanswered += uint64(len(c.batch) - c.answered)
	if c.waiting {
		c.waiting = false
		t.busy--
	}
	if c.fd >= 0 {
		_ = unix.Close(c.fd)
	}
	c.batch, c.answered, c.built = c.batch[:0], 0, 0
	c.carry, c.part, c.pending = c.carry[:0], partLine, nil
	c.fd, c.state, c.retryAt = -1, down, t.now+retryAfter
	t.down++
}

// reopen begins to connect the connections whose time has come.
func (t *thread) reopen() {
	for i := range t.conns {
		c := &t.conns[i]
		if c.state != down || t.now < c.retryAt || t.stopping() {
			continue
		}
		t.down--
		if err := t.connect(c); err != nil {
			t.lose(c, err.Error())
		} else if c.state == open {
			t.begin(c)
		}
	}
}

// rawIO is read or write on a non-blocking descriptor. It does not tell the scheduler, which is safe since the call does not
// sleep, and saves about a third of its cost.
func rawIO(call uintptr, fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}
