package server

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/cloudwego/netpoll"

	"hermesd/textproto"
)

// netpoll takes new sockets from a Listener. Ours is of two kinds: one accepts clients, the other gives back to netpoll the sockets of
// clients that are out of trouble.

// errClosed makes netpoll stop asking: it looks for the word.
var errClosed = errors.New("listener closed")

// admission is a socket on its way into netpoll, which keeps the address and gives it to prepare.
type admission struct {
	c  *conn
	fd int // a copy: netpoll asks for it when another poller may have seen the socket's end already, and c.fd is -1
}

// As netpoll.Conn. Only Fd and the addresses are used.
func (a admission) Fd() int                          { return a.fd }
func (a admission) LocalAddr() net.Addr              { return a }
func (a admission) RemoteAddr() net.Addr             { return a }
func (a admission) Read([]byte) (int, error)         { return 0, errors.ErrUnsupported }
func (a admission) Write([]byte) (int, error)        { return 0, errors.ErrUnsupported }
func (a admission) Close() error                     { return errors.ErrUnsupported }
func (a admission) SetDeadline(time.Time) error      { return errors.ErrUnsupported }
func (a admission) SetReadDeadline(time.Time) error  { return errors.ErrUnsupported }
func (a admission) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

// As net.Addr.
func (a admission) Network() string { return "tcp" }
func (a admission) String() string  { return a.c.peer.String() }

// acceptor accepts clients of one listening socket, for netpoll.
type acceptor struct {
	s       *Server
	ln      *net.TCPListener
	fd      int // a duplicate of the listener's
	reserve int // a descriptor to give up when there are none left
}

// newAcceptor takes over a listening socket.
func newAcceptor(s *Server, ln net.Listener) (*acceptor, error) {
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("server: cannot accept from a %T: give a *net.TCPListener", ln)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("server: listener %s: %w", ln.Addr(), err)
	}
	a := &acceptor{s: s, ln: tcp, fd: -1}
	if ctlErr := raw.Control(func(fd uintptr) { a.fd, err = duplicateFD(int(fd)) }); ctlErr != nil {
		err = ctlErr
	}
	if err != nil {
		return nil, fmt.Errorf("server: listener %s: %w", ln.Addr(), err)
	}
	a.reserve, _ = duplicateFD(a.fd)
	return a, nil
}

func duplicateFD(fd int) (int, error) {
	dup, _, err := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_DUPFD_CLOEXEC, 0)
	if err != 0 {
		return -1, err
	}
	return int(dup), nil
}

func (a *acceptor) Fd() int        { return a.fd }
func (a *acceptor) Addr() net.Addr { return a.ln.Addr() }

// Close is netpoll's way to stop, which we do not use: see stop.
func (a *acceptor) Close() error { return nil }

// stop makes netpoll let go of the listener: its next Accept fails.
func (a *acceptor) stop() { _ = syscall.Shutdown(a.fd, syscall.SHUT_RDWR) }

// free closes the listening socket, once netpoll has let go of it.
func (a *acceptor) free() {
	_ = syscall.Close(a.fd)
	if a.reserve >= 0 {
		_ = syscall.Close(a.reserve)
	}
	_ = a.ln.Close()
}

// Accept is called by netpoll when there is a client, one at a time. It returns nil, nil if there is none after all.
func (a *acceptor) Accept() (net.Conn, error) {
	for {
		fd, sa, err := syscall.Accept4(a.fd, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
		switch err {
		case nil:
			return a.admit(fd, sa)
		case syscall.EINTR:
		case syscall.EAGAIN, syscall.ECONNABORTED:
			return nil, nil
		case syscall.EMFILE, syscall.ENFILE:
			// netpoll would try again for ever, in a way that does not survive the second time. Turn this client away with the
			// descriptor that was kept for it.
			if a.turnAway() {
				return nil, nil
			}
			return nil, err
		default:
			if a.s.stopping.Load() {
				return nil, errClosed
			}
			return nil, err
		}
	}
}

// admit is what Accept returns for a new socket.
func (a *acceptor) admit(fd int, sa syscall.Sockaddr) (net.Conn, error) {
	if c := a.s.accepted(fd, sa); c != nil {
		return admission{c, fd}, nil
	}
	return nil, nil
}

// turnAway answers one client for which there is no descriptor.
func (a *acceptor) turnAway() bool {
	if a.reserve < 0 {
		return false
	}
	_ = syscall.Close(a.reserve)
	if fd, _, err := syscall.Accept4(a.fd, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC); err == nil {
		a.s.reject(fd)
	}
	a.reserve, _ = duplicateFD(a.fd)
	return true
}

// accepted makes a connection of a new socket. nil: there are too many.
func (s *Server) accepted(fd int, sa syscall.Sockaddr) *conn {
	// Counted before the look at stopping: either this sees that, or Shutdown sees the connection.
	if n := s.current.Add(1); n > int64(s.cfg.ConnLimit) || s.stopping.Load() {
		s.oneLess()
		s.reject(fd)
		return nil
	}
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1)
	c := newConn(s, fd, addrOf(sa))
	s.total.Add(1)
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	if s.stopping.Load() { // Shutdown may have looked for connections before this one was there
		shutdownSocket(fd)
	}
	return c
}

// reject turns a client away, in memcached's words.
func (s *Server) reject(fd int) {
	s.rejected.Add(1)
	_, _ = send(fd, []byte(textproto.ReplyTooManyConns))
	_ = syscall.Close(fd)
}

// forget is the end of a connection.
func (s *Server) forget(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.oneLess()
}

// oneLess counts a connection that is gone.
func (s *Server) oneLess() {
	if s.current.Add(-1) == 0 && s.stopping.Load() {
		select {
		case s.idle <- struct{}{}:
		default:
		}
	}
}

func addrOf(sa syscall.Sockaddr) net.Addr {
	switch sa := sa.(type) {
	case *syscall.SockaddrInet4:
		return &net.TCPAddr{IP: append(net.IP(nil), sa.Addr[:]...), Port: sa.Port}
	case *syscall.SockaddrInet6:
		return &net.TCPAddr{IP: append(net.IP(nil), sa.Addr[:]...), Port: sa.Port}
	}
	return &net.TCPAddr{}
}

// readmitter gives sockets back to netpoll. An eventfd stands for a listening socket; it is not 0
// while some wait.
type readmitter struct {
	s  *Server
	fd int

	mu      sync.Mutex
	waiting []*conn
}

func newReadmitter(s *Server) (*readmitter, error) {
	fd, err := newEventFD(0)
	if err != nil {
		return nil, fmt.Errorf("server: eventfd: %w", err)
	}
	return &readmitter{s: s, fd: fd}, nil
}

func (r *readmitter) Fd() int        { return r.fd }
func (r *readmitter) Addr() net.Addr { return &net.TCPAddr{} }
func (r *readmitter) Close() error   { return nil }
func (r *readmitter) stop()          { signalEventFD(r.fd) }
func (r *readmitter) free()          { _ = syscall.Close(r.fd) }

// admit puts a socket back into netpoll.
func (s *Server) admit(c *conn) {
	s.readmitter.mu.Lock()
	s.readmitter.waiting = append(s.readmitter.waiting, c)
	s.readmitter.mu.Unlock()
	signalEventFD(s.readmitter.fd)
}

// Accept is called by netpoll when the eventfd is not 0.
func (r *readmitter) Accept() (net.Conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) <= 1 {
		clearEventFD(r.fd) // with the lock held: admit signals after it has added
	}
	if len(r.waiting) == 0 {
		if r.s.ending.Load() {
			return nil, errClosed
		}
		return nil, nil
	}
	c := r.waiting[0]
	r.waiting = append(r.waiting[:0], r.waiting[1:]...)
	return admission{c, c.fd}, nil
}

// prepare is netpoll's OnPrepare: it comes between Accept and the first event.
func (s *Server) prepare(nc netpoll.Connection) *connContext {
	c := nc.RemoteAddr().(admission).c
	// netpoll deals out its pollers in turn, and so do we.
	c.thread.Store(int32(s.admitted.Add(1) % uint64(s.cfg.Threads)))
	c.readPos = 0
	_ = nc.AddCloseCallback(c.onClose)
	return &c.ctx
}
