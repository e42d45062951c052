package replication

import (
	"bufio"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var reachDir = flag.String("reach.dir", "", "TestReachable: where TLC's states are (tla/check runs it)")

// reachable is a small model of which both the explorer and TLC visit every state. What is shown of a state is the same for both: of each replica the epoch, the
// key's time stamp, whether it is valid, its finisher, and what is in flight with the acknowledgements of members. What is under way in channels is not:
// the specification has every message that was ever sent.
type reachable struct {
	name        string // of the file with TLC's states
	n           int
	sets, incrs int  // all placements of so many
	crash       bool // of any replica
	faults      bool // a break, and ticks
	// explained matches states of the specification that the engine does not come to.
	explained string
}

// orderOnly: both survivors replay an update, and one of them has the other's VAL before its own replay has been acknowledged. Over channels that keep their order
// the acknowledgement comes first. (Where nobody crashes, the explorer can do without the order, and does here.)
const orderOnly = `,TRUE,0,\{<<\d+,TRUE,\{\}>>\}`

// TestReachable compares the states that the engine comes to with those that Hermes.tla comes to with the same requests: they are the same, but for those
// that are explained.
func TestReachable(t *testing.T) {
	if *reachDir == "" {
		t.Skip("run by tla/check, with -reach.dir")
	}
	for _, m := range []reachable{
		{name: "same-writes", n: 2, sets: 2, faults: true},
		{name: "same-rmws", n: 2, incrs: 2, faults: true},
		{name: "same-write-rmw", n: 2, sets: 1, incrs: 1, faults: true},
		{name: "same-two-writes-rmw", n: 2, sets: 2, incrs: 1},
		{name: "same-write-rmws", n: 2, sets: 1, incrs: 2},
		{name: "same-three", n: 3, sets: 2},
		{name: "same-three-rmw", n: 3, sets: 1, incrs: 1},
		{name: "same-crash", n: 3, sets: 1, crash: true, faults: true, explained: orderOnly},
		{name: "same-crash-rmw", n: 3, incrs: 1, crash: true, faults: true, explained: orderOnly},
	} {
		t.Run(m.name, func(t *testing.T) {
			file := filepath.Join(*reachDir, m.name)
			if _, err := os.Stat(file); err != nil {
				t.Skipf("TLC has not checked this one: %v", err)
			}
			specified, engine := readStates(t, file), m.explore(t)
			extra := 0
			for _, s := range slices.Sorted(maps.Keys(engine)) {
				if !specified[s] {
					t.Errorf("the specification does not come to %s", s)
				}
			}
			for _, s := range slices.Sorted(maps.Keys(specified)) {
				switch {
				case engine[s]:
				case m.explained != "" && regexp.MustCompile(m.explained).MatchString(s):
					extra++
				default:
					t.Errorf("the engine does not come to %s", s)
				}
			}
			if m.explained != "" && extra == 0 {
				t.Error("the engine comes to what was said that it does not")
			}
			t.Logf("%s: %d states in both, %d in the specification only", m.name, len(engine), extra)
		})
	}
}

// explore returns what is shown of all states that the engine comes to.
func (m *reachable) explore(t *testing.T) map[string]bool {
	t.Helper()
	states := make(map[string]bool)
	for _, placed := range m.placements() {
		crashes := []int{0}
		if m.crash {
			crashes = []int{1, 2, 3}
		}
		for _, crash := range crashes {
			x := exploration{replicas: m.n, prologue: stored.requests, requests: distinct(placed), unordered: !m.crash, crash: crash}
			if m.faults {
				x.breaks, x.ticks = 1, 2
			}
			x.visit = func(e *explorer, w *world) { states[canonical(m.shown(w))] = true }
			if res := x.run(); res.wrong != "" {
				t.Errorf("%s: %v", x.name(), res)
			}
		}
	}
	return states
}

// placements returns all ways to give the requests to the replicas, in every order.
func (m *reachable) placements() (all [][]request) {
	var extend func(rs []request, sets, incrs int)
	extend = func(rs []request, sets, incrs int) {
		if sets+incrs == 0 {
			all = append(all, distinct(rs))
			return
		}
		for at := range m.n {
			give := func(kind string, sets, incrs int) {
				q := of(kind)[0]
				q.at = at
				extend(append(rs[:len(rs):len(rs)], q), sets, incrs)
			}
			if sets > 0 {
				give("set", sets-1, incrs)
			}
			if incrs > 0 {
				give("incr", sets, incrs-1)
			}
		}
	}
	extend(nil, m.sets, m.incrs)
	return all
}

// shown is what ReachHermes.tla's Shown is of the specification's states.
func (m *reachable) shown(w *world) string {
	var all []string
	for i, r := range w.replicas {
		if w.dead(i) {
			all = append(all, "<<>>")
			continue
		}
		it, _, st := r.peek("k")
		valid, finisher := "TRUE", uint8(0)
		if st == keyInvalid {
			valid, finisher = "FALSE", it.Finisher
		}
		var flight []string
		for _, op := range r.lane.flight.slots {
			if op != nil {
				var acks []string
				for set := op.acked & r.lane.peers; set != 0; set &= set - 1 {
					acks = append(acks, fmt.Sprint(lowest(set)))
				}
				replay := "FALSE"
				if op.replay {
					replay = "TRUE"
				}
				flight = append(flight, fmt.Sprintf("<<%d,%s,{%s}>>", specTS(traceTS(op.ts)), replay, strings.Join(acks, ",")))
			}
		}
		all = append(all, fmt.Sprintf("<<%d,%d,%s,%d,{%s}>>", r.lane.epoch, specTS(traceTS(it.TS)), valid, finisher, strings.Join(flight, ",")))
	}
	return "<<" + strings.Join(all, ",") + ">>"
}

// specTS is a time stamp as Hermes.tla writes it, where the prologue's write is its Zero.
func specTS(ts TraceTS) uint64 {
	if ts[0] == 1 {
		ts[0], ts[1] = 0, 0
	} else {
		ts[0]--
	}
	return 1000*ts[0] + 100*ts[1] + 10*ts[2] + ts[3]
}

// readStates reads what TLC has printed.
func readStates(t *testing.T, file string) map[string]bool {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	states := make(map[string]bool)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), `"<<`); ok {
			states[canonical("<<"+strings.TrimSuffix(text, `"`))] = true
		}
	}
	if len(states) == 0 {
		t.Fatalf("%s has no states", file)
	}
	return states
}

// canonical removes spaces, and sorts sets.
func canonical(s string) string {
	out, rest := canonicalPart(strings.ReplaceAll(s, " ", ""))
	return out + rest
}

// canonicalPart takes elements up to a closing brace.
func canonicalPart(s string) (out, rest string) {
	var b strings.Builder
	for len(s) > 0 {
		switch s[0] {
		case '{':
			var parts []string
			s = s[1:]
			for s[0] != '}' {
				part, more := elementOf(s)
				parts = append(parts, part)
				s = strings.TrimPrefix(more, ",")
			}
			s = s[1:]
			slices.Sort(parts)
			b.WriteString("{" + strings.Join(parts, ",") + "}")
		default:
			b.WriteByte(s[0])
			s = s[1:]
		}
	}
	return b.String(), ""
}

// elementOf cuts the first element of a set off.
func elementOf(s string) (element, rest string) {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '{', '<':
			depth++
		case '}', '>':
			if depth == 0 {
				e, _ := canonicalPart(s[:i])
				return e, s[i:]
			}
			depth--
		case ',':
			if depth == 0 {
				e, _ := canonicalPart(s[:i])
				return e, s[i:]
			}
		}
	}
	e, _ := canonicalPart(s)
	return e, ""
}
