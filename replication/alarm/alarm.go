// Package alarm wakes a goroutine at a time, at little cost for a process that sleeps most of the time.
//
// A timer of Go's that ends while nothing else runs wakes its process three times or more: epoll_wait, whose timeouts are whole milliseconds, returns too
// early and is called again; and the runtime's monitor, which sleeps until the next timer too, looks every 20 µs until the timer has been served. For a timer
// that ends ten times a second that costs 0.1 to 0.2% of a processor where waking up is dear, as in virtual machines. An Alarm is a timerfd among the file
// descriptors that the runtime polls: the kernel wakes one thread, once, at the time.
package alarm

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Alarm rings once for each time it is set. Its clock is CLOCK_BOOTTIME, which is never set, and goes on while the machine is suspended.
type Alarm struct {
	file  *os.File
	times [8]byte // it has rung, for Wait

	mu sync.Mutex
	fd int // of file; -1: closed
}

// New returns an alarm that is not set. It takes one file descriptor; the error is that there is none left.
func New() (*Alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("a timer of the kernel's: %w", os.NewSyscallError("timerfd_create", err))
	}
	return &Alarm{file: os.NewFile(uintptr(fd), "timerfd"), fd: fd}, nil
}

// Set has the alarm ring after d, or at once if d is not positive, instead of when it was to ring before. After Close it does nothing.
func (a *Alarm) Set(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fd < 0 {
		return
	}
	at := unix.ItimerSpec{Value: unix.NsecToTimespec(max(1, d.Nanoseconds()))} // 0 would stop it
	if err := unix.TimerfdSettime(a.fd, 0, &at, nil); err != nil {
		panic("alarm: timerfd_settime: " + err.Error()) // it has no errors but of programming
	}
}

// Wait returns when the alarm has rung since the last Wait, or with an error when it has been closed. One goroutine waits at a time.
func (a *Alarm) Wait() error {
	_, err := a.file.Read(a.times[:])
	return err
}

// Close ends a Wait.
func (a *Alarm) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fd = -1
	return a.file.Close()
}
