package views

import "golang.org/x/sys/unix"

// Now is the clock of leases, in nanoseconds since the machine was started. It is never set, and it counts the time in which the machine was suspended:
// a lease must not live longer by that.
func Now() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic("views: CLOCK_BOOTTIME: " + err.Error()) // Linux has had it since 2.6.39
	}
	return t.Nano()
}
