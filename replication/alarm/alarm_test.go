package alarm

import (
	"errors"
	"os"
	"testing"
	"time"
)

func set(t *testing.T) *Alarm {
	t.Helper()
	a, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// wait returns for how long Wait has taken since the time given.
func wait(t *testing.T, a *Alarm, since time.Time) time.Duration {
	t.Helper()
	if err := a.Wait(); err != nil {
		t.Fatal(err)
	}
	return time.Since(since)
}

func TestItDoesNotRingBeforeItsTime(t *testing.T) {
	a := set(t)
	for _, d := range []time.Duration{time.Microsecond, 1300 * time.Microsecond, 20 * time.Millisecond} {
		began := time.Now()
		a.Set(d)
		if took := wait(t, a, began); took < d {
			t.Errorf("set to %v it rings after %v", d, took)
		}
	}
}

func TestTheLastTimeCounts(t *testing.T) {
	a := set(t)
	a.Set(time.Hour)
	a.Set(0) // at once, though 0 stops a timerfd
	wait(t, a, time.Now())
	a.Set(-time.Hour)
	wait(t, a, time.Now())
	began := time.Now()
	a.Set(0)
	a.Set(5 * time.Millisecond) // what has rung is forgotten
	if took := wait(t, a, began); took < 5*time.Millisecond {
		t.Errorf("it rings after %v", took)
	}
}

func TestItIsSetWhileSomebodyWaits(t *testing.T) {
	a := set(t)
	a.Set(time.Hour)
	rung := make(chan error)
	go func() { rung <- a.Wait() }()
	a.Set(time.Millisecond)
	if err := <-rung; err != nil {
		t.Error(err)
	}
}

func TestCloseEndsWait(t *testing.T) {
	a := set(t)
	ended := make(chan error)
	go func() { ended <- a.Wait() }()
	a.Close()
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Wait returns %v", err)
	}
	// Its descriptor may be another file's by now, which must not be touched.
	other := set(t)
	other.Set(time.Hour)
	rung := make(chan error)
	go func() { rung <- other.Wait() }()
	a.Set(0)
	select {
	case <-rung:
		t.Error("setting a closed alarm rings another one")
	default:
	}
	other.Close()
	<-rung
}

// What is set for every update that wakes an idle replica must not cost memory.
func TestSetAllocatesNothing(t *testing.T) {
	a := set(t)
	if n := testing.AllocsPerRun(100, func() { a.Set(time.Hour) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
