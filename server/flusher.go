package server

import (
	"net"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// What passes have given to the Store for other replicas is sent once for all clients that a poller has found ready together, not once
// for each. netpoll does not tell when a poller has come to the end of a round; but what becomes ready comes after what was ready
// before. So a pass that has something to be sent makes an eventfd of its poller ready, the first such pass of a round only, and when the
// poller comes to that, the Store is flushed. The price is two cheap system calls for each round; what is saved is a write to
// every other replica for each client.

// flusher is that eventfd, as netpoll sees it a listening socket.
type flusher struct {
	s       *Server
	fd      int
	wanted  atomic.Bool   // it has been made ready
	serving chan struct{} // closed when its poller has seen it for the first time
	served  bool          // it is; only its poller touches it
}

// newFlusher returns a flusher that is ready, so that serving comes.
func newFlusher(s *Server) (*flusher, error) {
	fd, err := newEventFD(1)
	if err != nil {
		return nil, err
	}
	return &flusher{s: s, fd: fd, serving: make(chan struct{})}, nil
}

// want has the Store flushed at the end of the poller's round.
func (f *flusher) want() {
	if !f.wanted.Load() && !f.wanted.Swap(true) {
		signalEventFD(f.fd)
	}
}

// Accept is called by netpoll when the eventfd is not 0.
func (f *flusher) Accept() (net.Conn, error) {
	clearEventFD(f.fd)
	f.wanted.Store(false) // before the flush: what is submitted from here on wants another
	f.s.store.Flush()
	if !f.served {
		f.served = true
		close(f.serving)
	}
	if f.s.ending.Load() {
		return nil, errClosed
	}
	return nil, nil
}

func (f *flusher) Fd() int        { return f.fd }
func (f *flusher) Addr() net.Addr { return &net.TCPAddr{} }
func (f *flusher) Close() error   { return nil }
func (f *flusher) stop()          { signalEventFD(f.fd) }
func (f *flusher) free()          { _ = syscall.Close(f.fd) }

// newEventFD returns an eventfd(2) that does not block.
func newEventFD(value uintptr) (int, error) {
	const nonblock, cloexec = syscall.O_NONBLOCK, syscall.O_CLOEXEC
	fd, _, err := syscall.RawSyscall(syscall.SYS_EVENTFD2, value, nonblock|cloexec, 0)
	if err != 0 {
		return -1, err
	}
	return int(fd), nil
}

func signalEventFD(fd int) {
	one := [8]byte{1} // a little-endian number; on other machines it is another, and not 0
	_, _, _ = syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&one)), 8)
}

// clearEventFD makes an eventfd 0.
func clearEventFD(fd int) {
	var buf [8]byte
	_, _, _ = syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&buf)), 8)
}
