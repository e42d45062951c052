package views

import (
	"net"
	"sync/atomic"
	"time"
)

// lazyConn is a connection whose deadlines cost nothing. net.Conn keeps each with a timer, which wakes the process when what it was for has long been done: raft gives
// every call a deadline and never takes it off, which made half of all timers in an idle leader. Here deadlines are only written down, and streams.expire looks at
// them when the driver is awake anyway; so they are late by a heartbeat interval, or on a witness by a second.
type lazyConn struct {
	net.Conn
	read, write watched
	streams     *streams
}

// lazy makes a connection one of those at which expire looks, until it is closed.
func (s *streams) lazy(conn net.Conn) *lazyConn {
	c := &lazyConn{Conn: conn, streams: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lazyConns[c] = struct{}{}
	return c
}

// watched is one direction.
type watched struct {
	deadline atomic.Int64 // by Now; 0: none
	busy     atomic.Bool  // a call is in it
}

func (w *watched) set(t time.Time) {
	var at int64
	if !t.IsZero() {
		at = Now() + int64(time.Until(t))
	}
	w.deadline.Store(at)
}

func (w *watched) late(now int64) bool {
	if !w.busy.Load() { // looked at first: the deadline read below is then not one that an earlier call has left, while a new call begins
		return false
	}
	at := w.deadline.Load()
	return at != 0 && at <= now
}

func (c *lazyConn) SetDeadline(t time.Time) error {
	c.read.set(t)
	c.write.set(t)
	return nil
}

func (c *lazyConn) SetReadDeadline(t time.Time) error  { c.read.set(t); return nil }
func (c *lazyConn) SetWriteDeadline(t time.Time) error { c.write.set(t); return nil }

func (c *lazyConn) Read(b []byte) (int, error) {
	c.read.busy.Store(true)
	defer c.read.busy.Store(false)
	return c.Conn.Read(b)
}

func (c *lazyConn) Write(b []byte) (int, error) {
	c.write.busy.Store(true)
	defer c.write.busy.Store(false)
	return c.Conn.Write(b)
}

func (c *lazyConn) Close() error {
	c.streams.mu.Lock()
	delete(c.streams.lazyConns, c)
	c.streams.mu.Unlock()
	return c.Conn.Close()
}

// expire ends calls that have taken longer than they were to. Who made them closes the connection.
func (s *streams) expire(now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.lazyConns {
		if c.read.late(now) || c.write.late(now) {
			c.Conn.SetDeadline(time.Unix(1, 0)) // long ago: who waits is told that it has waited too long
		}
	}
}
