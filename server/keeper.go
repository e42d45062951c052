package server

import (
	"os"
	"syscall"
)

// A client is in trouble when the socket does not take its output, when it has more operations in flight or replies held back than
// a connection may, or when it keeps a poller busy for too long. Then it has a keeper: a goroutine that waits for the socket with
// Go's own poller, runs the input that has been read already, and goes away when all is well. While it is there nothing is read
// from the socket.

// startKeeper gives the connection a keeper, if it has none. mu is held.
func (c *conn) startKeeper() {
	if c.trouble.Load() {
		return
	}
	c.side.Lock()
	if c.wake == nil {
		c.wake = make(chan struct{}, 1)
	}
	c.side.Unlock()
	c.trouble.Store(true)
	c.s.keepers.Add(1)
	go c.keep()
}

// wakeKeeper tells the keeper, if there is one, that something has changed.
func (c *conn) wakeKeeper() {
	if !c.trouble.Load() {
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// keep is the keeper.
func (c *conn) keep() {
	defer c.s.keepers.Add(-1)
	var out *os.File // the socket, for waiting
	defer func() {
		if out != nil {
			_ = out.Close()
		}
	}()
	for {
		c.mu.Lock()
		if unsent := c.unsent; len(unsent) > 0 {
			c.unsent = nil
			if out == nil {
				out = duplicate(c.fd)
			}
			c.unlock()
			err := writeWaiting(out, unsent)
			c.mu.Lock()
			c.sent(len(unsent), err)
			c.unlock()
			continue
		}
		c.blocked = false
		c.work()
		wait, end := c.keeperMayGo()
		c.unlock()
		if end {
			return
		}
		if wait {
			<-c.wake
		}
	}
}

// duplicate makes an os.File of a socket, by a descriptor of its own: so the two can be closed independently. nil if there are no
// descriptors left.
func duplicate(fd int) *os.File {
	dup, _, err := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_DUPFD_CLOEXEC, 0)
	if err != 0 {
		return nil
	}
	return os.NewFile(dup, "client") // the socket is non-blocking, so it is Go's poller that waits
}

func writeWaiting(out *os.File, b []byte) error {
	if out == nil {
		return syscall.EMFILE
	}
	_, err := out.Write(b)
	return err
}

// sent takes note of what the keeper has sent. mu is held.
func (c *conn) sent(n int, err error) {
	if err != nil {
		c.fail()
		return
	}
	w := c.s.worker(int(c.thread.Load()))
	w.add(bytesWritten, uint64(n))
	c.s.release(w)
}

// work is the pass of a keeper: the input that was read before, and the replies that have become possible.
func (c *conn) work() {
	w := c.s.worker(int(c.thread.Load()))
	if c.yielded {
		c.yielded = false
		w.add(connYields, 1)
	}
	c.takeArrived()
	c.answer(w)
	if c.runnable {
		c.takeLarge(w)
	}
	c.finish(w)
	c.s.release(w)
}

// takeArrived joins what netpoll has brought meanwhile to the input.
func (c *conn) takeArrived() {
	c.side.Lock()
	arrived := c.arrived
	c.arrived = nil
	c.side.Unlock()
	if len(arrived) != 0 && !c.closing {
		c.in = append(c.in, arrived...)
		c.runnable = true
	}
}

// keeperMayGo decides whether the keeper has to wait for something (wait), is not needed any more (end), or has
// more to do.
func (c *conn) keeperMayGo() (wait, end bool) {
	if c.blocked {
		return false, false
	}
	if c.mustPause() { // operations of the Store, of which one will complete and wake us
		return true, false
	}
	if c.runnable {
		return false, false
	}
	c.side.Lock()
	switch {
	case c.detaching:
		wait = true
	case len(c.arrived) != 0 && !c.closing:
	default:
		end = true
		c.arrived = nil
		c.trouble.Store(false)
	}
	c.side.Unlock()
	if !end {
		return wait, false
	}
	if c.detached {
		c.detached = false
		if c.closing {
			c.gone = true
		} else {
			c.s.admit(c)
		}
	}
	c.settle()
	return false, true
}
