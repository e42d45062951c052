package server

import (
	"runtime"
	"syscall"
	"unsafe"
)

// rawWriteMax: a write of more than this many bytes goes through Go's scheduler, since the kernel will be copying for a while.
const rawWriteMax = 64 << 10

// send writes to a socket without ever waiting. It is a raw system call, as netpoll's are: telling Go's scheduler of one that
// does not block costs more than it can gain.
func send(fd int, b []byte) (n int, err syscall.Errno) {
	if len(b) == 0 {
		return 0, 0
	}
	const flags = syscall.MSG_DONTWAIT | syscall.MSG_NOSIGNAL
	for {
		var r uintptr
		if len(b) <= rawWriteMax {
			r, _, err = syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0)
		} else {
			r, _, err = syscall.Syscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0)
		}
		runtime.KeepAlive(b)
		if err == syscall.EINTR {
			continue
		}
		if err != 0 {
			return 0, err
		}
		return int(r), 0
	}
}

// shutdownSocket ends a connection in both directions and leaves its descriptor open: whoever waits for it is woken.
func shutdownSocket(fd int) { _ = syscall.Shutdown(fd, syscall.SHUT_RDWR) }

// receive reads what a socket has without ever waiting. n is 0 if there is nothing, or the stream has ended, or failed:
// netpoll finds out which.
func receive(fd int, b []byte) (n int) {
	for {
		r, _, err := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), syscall.MSG_DONTWAIT, 0, 0)
		runtime.KeepAlive(b)
		if err == syscall.EINTR {
			continue
		}
		if err != 0 {
			return 0
		}
		return int(r)
	}
}

// write sends the output of the pass so far. What the socket does not take becomes the connection's own, for the keeper to
// send.
func (c *conn) write(w *worker) {
	if len(w.out) == 0 {
		return
	}
	out := w.out
	w.out = w.out[:0]
	switch {
	case c.broken || c.fd < 0:
		return
	case c.blocked:
		c.unsent = append(c.unsent, out...)
		return
	}
	n, err := send(c.fd, out)
	w.add(writes, 1)
	w.add(bytesWritten, uint64(n))
	w.written += n
	switch {
	case err != 0 && err != syscall.EAGAIN:
		c.fail()
	case n < len(out):
		c.blocked = true
		if cap(out) > keptOutputBytes { // made by a large value: no need for a copy
			c.unsent, w.out = out[n:], nil
			return
		}
		c.unsent = append(c.unsent[:0], out[n:]...)
	}
}
