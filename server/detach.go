package server

import (
	"context"
	"syscall"
	"unsafe"

	"github.com/cloudwego/netpoll"
)

// netpoll reads whatever a client sends, for as long as it has the socket. To stop reading, the socket must be taken away from it
// (netpoll.Connection's Detach), and that takes care, since our callbacks run on its poller:
//
//   - Detach or Close within a callback that runs on the poller never returns: netpoll v0.7.2 waits there for the poller to be
//     done with the connection. So we never close a connection of netpoll's: we shut the socket down, which makes the
//     poller find its end and let go of it as if the client had closed.
//   - What the poller reads between our last look at its buffer and its last look at the socket would be lost. So the poller has to stand
//     still meanwhile, for the microseconds that it takes.
//
// Both are solved where netpoll, on the poller and with input in hand, asks for our callback to be run (Config.Runner). For a client in trouble
// it is run on another goroutine, which takes the input and detaches, as netpoll allows there; the poller waits until the
// descriptor is out of its epoll set. If the client sends nothing while it is in trouble, it stays where it is.
//
// The descriptor is always ours: by the word "detaching" netpoll knows not to close it, and we give it that word whenever it lets go of a
// connection. So it can never be closed, and its number used again, while somebody is about to write to it.

// runTask is netpoll's Runner.
func runTask(ctx context.Context, task func()) {
	if c := connOf(ctx); c.trouble.Load() {
		c.handOver(task)
		return
	}
	task()
}

// handOver takes the socket out of netpoll. It runs on the poller.
func (c *conn) handOver(task func()) {
	// If the client has closed its side, the poller will read on to the end of the stream in any case: what is in the socket is all that will
	// ever come, and the socket's receive buffer bounds it.
	if !hungUp(c.fd) {
		c.side.Lock()
		if c.trouble.Load() {
			c.detaching = true
			if c.left == nil {
				c.left = make(chan struct{}, 1)
			}
			c.side.Unlock()
			go task()
			<-c.left
			return
		}
		c.side.Unlock()
	}
	task()
}

// bring leaves input with the keeper. false: there is none any more.
func (c *conn) bring(chunk []byte, nc netpoll.Connection) bool {
	c.side.Lock()
	if !c.trouble.Load() && !c.detaching {
		c.side.Unlock()
		return false
	}
	c.arrived = append(c.arrived, chunk...)
	c.readPos = (c.readPos + len(chunk)) & (netpollBytes - 1)
	detach := c.detaching
	c.side.Unlock()
	c.wakeKeeper()
	if detach {
		_ = nc.(detacher).Detach() // takes effect when the callback returns
	}
	return true
}

type detacher interface{ Detach() error }

// onClose is called when netpoll lets go of a connection: because it was detached, or since the client has closed.
func (c *conn) onClose(nc netpoll.Connection) error {
	c.side.Lock()
	if c.detaching {
		c.detaching, c.detached = false, true
		c.side.Unlock()
		c.left <- struct{}{}
		c.wakeKeeper()
		return nil
	}
	c.side.Unlock()
	_ = nc.(detacher).Detach() // it is closed already: this only leaves the descriptor to us
	c.mu.Lock()
	c.gone = true
	c.settle()
	c.unlock()
	c.wakeKeeper()
	return nil
}

// hungUp reports whether the peer of a socket will send no more, or the socket has failed.
func hungUp(fd int) bool {
	const (
		pollErr   = 0x8
		pollHup   = 0x10
		pollRdHup = 0x2000
	)
	p := struct {
		fd              int32
		events, revents int16
	}{fd: int32(fd), events: pollRdHup}
	timeout := syscall.Timespec{}
	n, _, err := syscall.RawSyscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&timeout)), 0, 0, 0)
	return err != 0 || n == 1 && p.revents&(pollRdHup|pollHup|pollErr) != 0
}
