package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hermesd/replication"
)

// ts is a time stamp of version and writer, with a step of its own stepper.
func ts(version, writer, step, stepper uint64) replication.TraceTS {
	return replication.TraceTS{version, writer, step, stepper}
}

// The steps of these tests: replica 1 writes k, 2 takes it.
var (
	written = ts(1, 1, 0, 0)
	enter1  = &step{Time: 1, Replica: 1, Epoch: 4, Step: replication.StepEnter, Members: []int{1, 2, 3}}
	start   = &step{Time: 20, Replica: 1, Epoch: 4, Step: replication.StepStart, Key: "k", TS: &written, State: replication.TraceState{TS: written, Finisher: 1},
		Sent: []*replication.TraceMessage{{To: 2, Kind: "INV", TS: written}, {To: 3, Kind: "INV", TS: written}}}
	taken = &step{Time: 10, Replica: 2, Epoch: 4, Step: replication.StepINV, Key: "k", From: 1, TS: &written, State: replication.TraceState{TS: written, Finisher: 1},
		Sent: []*replication.TraceMessage{{To: 1, Kind: "ACK", TS: written}}}
)

// A clock that is behind does not make a message arrive before it was sent; what nobody has sent is left in, for TLC to refuse.
func TestReceiptsComeAfterSendings(t *testing.T) {
	if got := merge([][]*step{{enter1, start}, {taken}}); !slices.Equal(got, []*step{enter1, start, taken}) {
		t.Errorf("the order is %v", got)
	}
	if got := merge([][]*step{{enter1}, {taken}}); !slices.Equal(got, []*step{enter1, taken}) {
		t.Errorf("what nobody has sent: %v", got)
	}
}

// Of two lanes, each replica has told of the receipt in one before the sending in the other, which has waited for the file: no order of the files' lines
// has the sendings first.
func TestLanesAreIndependent(t *testing.T) {
	dir := t.TempDir()
	line := func(replica, lane uint8, s replication.Step, from uint8, sent string) string {
		return fmt.Sprintf(`{"time":1,"replica":%d,"lane":%d,"epoch":1,"step":%q,"key":"k","from":%d,"ts":[1,%d,0,0],"state":{},"sent":[%s]}`+"\n", replica, lane, s, from, max(from, replica*(1-min(from, 1))), sent)
	}
	invTo := func(to, writer uint8) string {
		return fmt.Sprintf(`{"to":%d,"kind":"INV","ts":[1,%d,0,0]}`, to, writer)
	}
	for replica, text := range map[int]string{
		1: line(1, 1, replication.StepINV, 2, "") + line(1, 0, replication.StepStart, 0, invTo(2, 1)),
		2: line(2, 0, replication.StepINV, 1, "") + line(2, 1, replication.StepStart, 0, invTo(1, 2)),
	} {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.ndjson", replica)), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	steps, err := readGroup(dir)
	if err != nil || len(steps) != 4 {
		t.Fatalf("%d steps: %v", len(steps), err)
	}
	seen := map[uint8]bool{}
	for _, s := range steps {
		if s.Step == replication.StepINV && !seen[s.Lane] {
			t.Errorf("in lane %d the INV is received before it is sent", s.Lane)
		}
		seen[s.Lane] = true
	}
}

func tracesOfSteps(t *testing.T, steps ...*step) []trace {
	t.Helper()
	traces, err := tracesOf("group", steps, 100)
	if err != nil {
		t.Fatal(err)
	}
	return traces
}

// A step has what Hermes.tla has: one INV for all receivers, epochs from 1 on, time stamps as numbers.
func TestStepsAsTheSpecificationHasThem(t *testing.T) {
	all := tracesOfSteps(t, enter1, start, taken)
	if len(all) != 1 || all[0].cut != "" || len(all[0].events) != 2 {
		t.Fatalf("%+v", all)
	}
	for i, want := range []string{
		`step |-> "start", at |-> 1, from |-> 0, ts |-> 110000, kind |-> "write"`,
		`step |-> "INV", at |-> 2, from |-> 1, ts |-> 110000`,
	} {
		if !strings.Contains(all[0].events[i], want) {
			t.Errorf("%s\nhas not %s", all[0].events[i], want)
		}
	}
	for i, want := range []string{
		`sent |-> {[type |-> "INV", from |-> 1, to |-> 0, epoch |-> 1, ts |-> 110000, kind |-> "write", replay |-> FALSE]}]`,
		`sent |-> {[type |-> "ACK", from |-> 2, to |-> 1, epoch |-> 1, ts |-> 110000]}]`,
	} {
		if !strings.HasSuffix(all[0].events[i], want) {
			t.Errorf("%s\ndoes not end with %s", all[0].events[i], want)
		}
	}
	if got := number(ts(12, 3, 45, 2)); got != 1230452 {
		t.Errorf("a time stamp is %d", got)
	}
}

// Whoever is not in the next view has crashed before anybody enters it, and only once.
func TestViewsShrink(t *testing.T) {
	enter := func(replica uint8) *step {
		return &step{Replica: replica, Epoch: 5, Step: replication.StepEnter, Members: []int{1, 2}}
	}
	all := tracesOfSteps(t, enter1, start, enter(2), enter(1), taken)
	want := []string{`[step |-> "crash", at |-> 3]`, `[step |-> "view", members |-> {1, 2}]`, `[step |-> "enter", at |-> 2, epoch |-> 2, members |-> {1, 2}]`,
		`[step |-> "enter", at |-> 1, epoch |-> 2, members |-> {1, 2}]`}
	if len(all) != 1 || len(all[0].events) != 6 || !slices.Equal(all[0].events[1:5], want) {
		t.Errorf("%+v", all)
	}
}

// A trace ends before what Hermes.tla knows nothing of.
func TestTracesEndBeforeTheUnknown(t *testing.T) {
	with := func(s *step, change func(*step)) *step {
		c := *s
		change(&c)
		return &c
	}
	for why, last := range map[string]*step{
		"a replica joins": {Replica: 1, Epoch: 5, Step: replication.StepEnter, Members: []int{1, 2, 3, 4}},
		"the key is deleted, or an update is of an absent key": with(taken, func(s *step) { s.State.Tombstone = true }),
		"a time stamp is too great to be written in decimal":   with(taken, func(s *step) { s.State.TS = ts(maxVersion+1, 1, 0, 0) }),
		"the lane is flushed":                     {Replica: 2, Epoch: 4, Step: replication.StepFlush},
		"a replica is left alone":                 {Replica: 2, Epoch: 4, Step: replication.StepAlone},
		"a replica that is in the view has ended": {Replica: 2, Epoch: 4, Step: replication.StepEnd},
	} {
		all := tracesOfSteps(t, enter1, start, last, taken)
		if len(all) != 1 || all[0].cut != why || len(all[0].events) != 1 {
			t.Errorf("%s: %+v", why, all)
		}
	}
	if all := tracesOfSteps(t, start, taken); all != nil {
		t.Errorf("a group that was never complete has traces: %+v", all)
	}
}

// How traces have ended is said, and how many steps there are to be at least.
func TestEndingsAndLeast(t *testing.T) {
	all := []trace{{cut: "a replica joins"}, {}, {cut: "a replica joins"}, {cut: longEnough}}
	if got, want := endings(all), "a replica joins: 2; "+longEnough+": 1; the group's steps do: 1"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	dir := t.TempDir()
	out := filepath.Join(dir, "TraceData.tla")
	steps := `{"replica":1,"epoch":1,"step":"enter","members":[1,2,3]}` + "\n" + `{"replica":1,"epoch":1,"step":"start","key":"k","ts":[1,1,0,0],"state":{}}`
	if err := os.WriteFile(filepath.Join(dir, "1.ndjson"), []byte(steps), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := convert(out, []string{dir}, limits{100, 100, 1}); err != nil {
		t.Error(err)
	}
	for least, says := range map[int]string{2: "have 1 steps, and at least 2 must be checked", 0: "give at least 1"} {
		if err := convert(out, []string{dir}, limits{100, 100, least}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("at least %d: %v, want %q", least, err, says)
		}
	}
}

// TestCheckNamesWhatThereIs: tla/check refuses a name that it does not know before it runs anything, also after a set.
func TestCheckNamesWhatThereIs(t *testing.T) {
	for _, args := range [][]string{{"TYPO"}, {"short", "TYPO"}, {"two-replicas", "TYPO"}} {
		out, err := exec.Command("../check", args...).CombinedOutput()
		var status *exec.ExitError
		if !errors.As(err, &status) || !strings.Contains(string(out), "has no TYPO. There are") || !strings.Contains(string(out), "\n  two-replicas\n") {
			t.Errorf("tla/check %v: %v\n%s", args, err, out)
		}
	}
}

// What cannot be read is told of with its place, and a folder without traces is a mistake.
func TestConvertFailsClearly(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "TraceData.tla")
	expect := func(says string) {
		t.Helper()
		if err := convert(out, []string{dir}, limits{100, 100, 1}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want something about %s", err, says)
		}
	}
	expect("no *.ndjson in")
	file := filepath.Join(dir, "1.ndjson")
	for content, says := range map[string]string{
		`{"replica":1,"step":"enter","members":[1,2,3]}` + "\nnonsense": "1.ndjson:2: ",
		// A trace without steps is nothing that could be right or wrong.
		`{"replica":1,"epoch":1,"step":"enter","members":[1,2,3]}` + "\n" + `{"replica":1,"epoch":1,"step":"start","key":"k","ts":[1,1,0,0],"state":{"tombstone":true}}`: "have 0 steps, and at least 1 must be checked (-least); they end where the key is deleted, or an update is of an absent key: 1",
		`{"replica":77}`: "replica 77 is not in 1..9",
		`{"replica":1,"step":"enter","members":[1,2]}`:                                                     "no trace of a group of 3",
		`{"replica":1,"step":"enter","members":[1,2,3]}` + "\n" + `{"replica":1,"step":"start","key":"k"}`: "a step start without its time stamps",
	} {
		if err := os.WriteFile(file, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
		expect(says)
	}
}
