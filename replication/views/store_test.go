package views

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func openStore(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := OpenStore(dir, 2, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestStoreGivesNoNumberTwice(t *testing.T) {
	dir := t.TempDir()
	var incarnation, unique uint64
	server := ""
	for range 3 {
		s := openStore(t, dir)
		for range 3 {
			m, err := s.NextIncarnation(0)
			if err != nil || m.Number != 2 || m.Incarnation <= incarnation {
				t.Fatalf("incarnation %v after %d: %v", m, incarnation, err)
			}
			from, to, err := s.ReserveUnique(1 << 40) // more than the clock goes on meanwhile
			if err != nil || from < unique || to != from+1<<40 {
				t.Fatalf("numbers %d to %d after %d: %v", from, to, unique, err)
			}
			incarnation, unique = m.Incarnation, to
		}
		if server != "" && s.Server() != server {
			t.Errorf("raft server %s is now %s", server, s.Server())
		}
		server = s.Server()
		s.Close()
	}
	s := openStore(t, dir)
	above := uint64(time.Now().UnixMicro()) << 2
	if m, err := s.NextIncarnation(above); err != nil || m.Incarnation != above+1 {
		t.Errorf("the incarnation above %d is %v: %v", above, m, err)
	}
}

func TestStoreBelongsToOneProcess(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	if _, err := OpenStore(dir, 2, false); err == nil || !strings.Contains(err.Error(), "another process uses it") {
		t.Errorf("opened twice: %v", err)
	}
	s.Close()
	if _, err := OpenStore(dir, 3, false); err == nil || !strings.Contains(err.Error(), "belongs to replica 2, not to 3") {
		t.Errorf("opened by another replica: %v", err)
	}
	if _, err := OpenStore(dir, 2, true); err == nil || !strings.Contains(err.Error(), "--witness") {
		t.Errorf("opened by a witness: %v", err)
	}
}

func TestDamagedStoreIsSaid(t *testing.T) {
	dir := t.TempDir()
	openStore(t, dir).Close()
	if err := os.WriteFile(filepath.Join(dir, "counters"), []byte(`{"Server":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(dir, 2, false); err == nil || !strings.Contains(err.Error(), "counters is damaged") {
		t.Errorf("a damaged file: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "counters")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "raft.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(dir, 2, false); err == nil || !strings.Contains(err.Error(), "counters is missing") {
		t.Errorf("a missing file: %v", err)
	}
}

// A write that fails leaves the file as it was, and gives no number out.
func TestStoreThatCannotWriteGivesNothing(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	before, err := s.NextIncarnation(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "counters.new"), 0o700); err != nil { // nobody can write there, not even root
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "counters.new", "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if m, err := s.NextIncarnation(0); err == nil || !strings.Contains(err.Error(), "data directory") {
		t.Errorf("%v: %v", m, err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "counters.new")); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if after, err := openStore(t, dir).NextIncarnation(0); err != nil || after.Incarnation <= before.Incarnation {
		t.Errorf("%v after %v: %v", after, before, err)
	}
}

func TestTimingIsSafe(t *testing.T) {
	for _, timing := range []Timing{DefaultTiming, TunedTiming} {
		if err := timing.Validate(); err != nil {
			t.Error(err)
		}
	}
	for name, c := range map[string]struct {
		change func(*Timing)
		why    string
	}{
		"heartbeat above a third":            {func(t *Timing) { t.Heartbeat = t.Lease/3 + 1 }, "more than a third of the lease"},
		"heartbeat of 1ms":                   {func(t *Timing) { t.Heartbeat = time.Millisecond }, "below 5ms"},
		"suspicion before the lease is over": {func(t *Timing) { t.SuspectAfter = t.Lease }, "suspect-after must be at least 301ms"},
		"drift above the margin":             {func(t *Timing) { t.Drift = 0.1 }, "clock drift"},
		"negative drift":                     {func(t *Timing) { t.Drift = -0.1 }, "clock drift"},
		"cut off before suspected":           {func(t *Timing) { t.Unreachable = t.SuspectAfter - 1 }, "unreachable-after"},
		"a slow election":                    {func(t *Timing) { t.Election = t.SuspectAfter + 1 }, "election"},
	} {
		t.Run(name, func(t *testing.T) {
			timing := DefaultTiming
			c.change(&timing)
			if err := timing.Validate(); err == nil || !strings.Contains(err.Error(), c.why) {
				t.Errorf("%v; it should speak of %q", err, c.why)
			}
		})
	}
}
