package views

import (
	"errors"
	"net"
	"os"
	"runtime"
	"testing"
	"time"
)

// lazyPair returns both ends of a connection, one of them lazy.
func lazyPair(t *testing.T) (*streams, *lazyConn, net.Conn) {
	t.Helper()
	s := newStreams("", "", nil)
	near, far := net.Pipe()
	c := s.lazy(near)
	t.Cleanup(func() { c.Close(); far.Close() })
	return s, c, far
}

func until(what func() bool) {
	for !what() {
		runtime.Gosched()
	}
}

func TestLateCallsEnd(t *testing.T) {
	for name, call := range map[string]struct {
		set  func(*lazyConn, time.Time) error
		call func(*lazyConn) error
		busy func(*lazyConn) bool
	}{
		"read":  {(*lazyConn).SetReadDeadline, func(c *lazyConn) error { _, err := c.Read(make([]byte, 1)); return err }, func(c *lazyConn) bool { return c.read.busy.Load() }},
		"write": {(*lazyConn).SetWriteDeadline, func(c *lazyConn) error { _, err := c.Write([]byte("x")); return err }, func(c *lazyConn) bool { return c.write.busy.Load() }},
		"both":  {(*lazyConn).SetDeadline, func(c *lazyConn) error { _, err := c.Read(make([]byte, 1)); return err }, func(c *lazyConn) bool { return c.read.busy.Load() }},
	} {
		t.Run(name, func(t *testing.T) {
			s, c, _ := lazyPair(t)
			call.set(c, time.Now().Add(time.Minute))
			ended := make(chan error)
			go func() { ended <- call.call(c) }()
			until(func() bool { return call.busy(c) })
			s.expire(Now())
			select {
			case err := <-ended:
				t.Fatalf("it ends a minute before its deadline: %v", err)
			default:
			}
			s.expire(Now() + int64(2*time.Minute))
			if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("it ends with %v", err)
			}
		})
	}
}

// TestDeadlinesOfWhatIsDoneMeanNothing: raft leaves them on.
func TestDeadlinesOfWhatIsDoneMeanNothing(t *testing.T) {
	s, c, far := lazyPair(t)
	c.SetDeadline(time.Now().Add(time.Second))
	go far.Write([]byte("a"))
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	s.expire(Now() + int64(time.Minute))
	c.SetDeadline(time.Time{})
	read := make(chan error)
	go func() { _, err := c.Read(make([]byte, 1)); read <- err }()
	until(func() bool { return c.read.busy.Load() })
	s.expire(Now() + int64(time.Minute))
	far.Write([]byte("b"))
	if err := <-read; err != nil {
		t.Errorf("a read without a deadline: %v", err)
	}
}

func TestClosedConnectionsAreForgotten(t *testing.T) {
	s, c, _ := lazyPair(t)
	if len(s.lazyConns) != 1 {
		t.Errorf("%d connections", len(s.lazyConns))
	}
	c.Close()
	if len(s.lazyConns) != 0 {
		t.Errorf("%d connections after Close", len(s.lazyConns))
	}
}
