package views

import (
	"flag"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var idleFor = flag.Duration("views.idle", 0, "measure what an idle group of three costs for so long")

// TestIdleCost measures; it asserts nothing, for that depends on the machine.
func TestIdleCost(t *testing.T) {
	if *idleFor == 0 {
		t.Skip("measures for -views.idle")
	}
	c := newCluster(t, DefaultTiming, 0, 1, 2, 3)
	c.start(1, 2, 3)
	c.serve(1, 2, 3)
	before := cpu(t)
	time.Sleep(*idleFor)
	used := cpu(t) - before
	t.Logf("%.2f%% of a core per replica, of three in one process", 100*used.Seconds()/idleFor.Seconds()/3)
}

func cpu(t *testing.T) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
