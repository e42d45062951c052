package replication

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// ControlMagic is what a connection to the control plane begins with. Who dials it writes these bytes first; the control side of Split finds
// what follows them.
const ControlMagic = "hermesC\n"

// Limits of Split.
const (
	splitTimeout   = 5 * time.Second        // for a connection to say what it is
	splitUndecided = 128                    // connections at once that have not said what they are yet; more are closed
	splitBacklog   = 128                    // connections of one side that wait for its Accept; more are closed
	splitPause     = 100 * time.Millisecond // before Accept is tried again after a failure
)

// Split shares one TCP listener between data channels and the control plane, by the first bytes of each connection. One that begins with
// ControlMagic goes to control, without these bytes; any other to data, with all its bytes unread and as the *net.TCPConn that was accepted,
// as NewTCP needs it, which also answers who talks something else. One that says nothing, or not enough, within 5 s is closed.
//
// Both listeners have ln's address. Closing one ends its Accept calls and refuses connections of its kind; ln, which is Split's from now on, is
// closed with the second, which returns when nothing of the splitter runs any more. When ln fails to accept, both sides are told once; when it is closed, always.
func Split(ln net.Listener) (data, control net.Listener) {
	s := newSplitter(ln, splitTimeout, splitUndecided, splitBacklog)
	return s.data, s.control
}

// splitter decides for each connection in a goroutine of its own.
type splitter struct {
	ln            net.Listener
	data, control *splitSide
	timeout       time.Duration
	max           int
	closing       chan struct{} // closed: both sides are
	wg            sync.WaitGroup

	mu        sync.Mutex
	open      int                   // sides
	undecided map[net.Conn]struct{} // nil once both sides are closed
}

func newSplitter(ln net.Listener, timeout time.Duration, undecided, backlog int) *splitter {
	s := &splitter{ln: ln, timeout: timeout, max: undecided, closing: make(chan struct{}), open: 2, undecided: make(map[net.Conn]struct{})}
	s.data, s.control = newSplitSide(s, backlog), newSplitSide(s, backlog)
	s.wg.Go(s.accept)
	return s
}

func (s *splitter) accept() {
	for {
		c, err := s.ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				s.data.shut()
				s.control.shut()
				return
			}
			s.data.fail(err)
			s.control.fail(err)
			select {
			case <-time.After(splitPause): // others may give back file descriptors meanwhile
			case <-s.closing:
			}
			continue
		}
		conn, ok := c.(*net.TCPConn)
		if !ok || !s.enter(conn) {
			_ = c.Close()
			continue
		}
		s.wg.Go(func() { s.decide(conn) })
	}
}

// enter counts a connection as undecided; false: there are too many.
func (s *splitter) enter(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.undecided == nil || len(s.undecided) >= s.max {
		return false
	}
	s.undecided[conn] = struct{}{}
	return true
}

func (s *splitter) leave(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.undecided, conn)
}

// decide gives a connection to the side that it is for, or closes it.
func (s *splitter) decide(conn *net.TCPConn) {
	defer s.leave(conn)
	_ = conn.SetReadDeadline(time.Now().Add(s.timeout))
	side := s.data
	isControl, err := peekControl(conn)
	if err == nil && isControl {
		side = s.control
		var magic [len(ControlMagic)]byte
		_, err = io.ReadFull(conn, magic[:]) // they are there
	}
	if err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	if err != nil || !side.offer(conn) {
		_ = conn.Close()
	}
}

var errHungUp = errors.New("it closed the connection before it said what it is")

// peekControl finds out whether conn begins with ControlMagic, and reads nothing. It waits for as many bytes as it needs.
func peekControl(conn *net.TCPConn) (isControl bool, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false, err
	}
	var b [len(ControlMagic)]byte
	var failed error
	err = raw.Read(func(fd uintptr) (done bool) {
		// Before the peek: what was sent before the end is seen.
		ended := hasHungUp(fd)
		var n int
		for {
			if n, _, failed = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK); failed != syscall.EINTR {
				break
			}
		}
		switch {
		case failed == syscall.EAGAIN:
			failed = nil
			return false
		case failed != nil:
			return true
		}
		isControl = n == len(b) && string(b[:]) == ControlMagic
		if isControl || !bytes.HasPrefix([]byte(ControlMagic), b[:n]) {
			return true
		}
		if n == 0 || ended {
			failed = errHungUp
			return true
		}
		return false // the next bytes wake it, or the deadline
	})
	return isControl, errors.Join(err, failed)
}

// splitSide is the listener of one side.
type splitSide struct {
	splitter *splitter
	conns    chan *net.TCPConn
	failed   chan error
	closing  sync.Once

	mu   sync.Mutex    // held while conns is added to, or done is closed
	done chan struct{} // closed: the side is
}

func newSplitSide(s *splitter, backlog int) *splitSide {
	return &splitSide{splitter: s, conns: make(chan *net.TCPConn, backlog), failed: make(chan error, 1), done: make(chan struct{})}
}

// offer gives the side a connection; false: it does not take it.
func (s *splitSide) offer(conn *net.TCPConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isShut() {
		return false
	}
	select {
	case s.conns <- conn:
		return true
	default:
		return false
	}
}

func (s *splitSide) isShut() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// fail lets one Accept return err.
func (s *splitSide) fail(err error) {
	select {
	case s.failed <- err:
	default: // it has not been told of the last one yet
	}
}

// Accept implements net.Listener.
func (s *splitSide) Accept() (net.Conn, error) {
	select {
	case conn := <-s.conns:
		return conn, nil
	case err := <-s.failed:
		return nil, err
	case <-s.done:
		return nil, &net.OpError{Op: "accept", Net: s.Addr().Network(), Addr: s.Addr(), Err: net.ErrClosed}
	}
}

// Addr implements net.Listener.
func (s *splitSide) Addr() net.Addr { return s.splitter.ln.Addr() }

// Close implements net.Listener. What waits for Accept is closed too.
func (s *splitSide) Close() (err error) {
	s.shut()
	s.closing.Do(func() { err = s.splitter.sideClosed() })
	return err
}

// shut ends Accept and what waits for it.
func (s *splitSide) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isShut() {
		return
	}
	close(s.done)
	for {
		select {
		case conn := <-s.conns:
			_ = conn.Close()
		default:
			return
		}
	}
}

// sideClosed ends the splitter with its second side.
func (s *splitter) sideClosed() error {
	s.mu.Lock()
	s.open--
	if s.open > 0 {
		s.mu.Unlock()
		return nil
	}
	for conn := range s.undecided {
		_ = conn.Close()
	}
	s.undecided = nil
	s.mu.Unlock()
	close(s.closing)
	err := s.ln.Close()
	s.wg.Wait()
	return err
}
