package history

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"
)

// histories are recordings and verdicts. A line is an operation of a client:
//
//	a set k 1 -> STORED     called and returned before anything else happens
//	a( set k 1              called
//	a) STORED               the call of a returned
//
// What follows set, add, ... is key, value and flags; after cas the unique is last; "!" at the end is an exptime in the past.
// VALUE is followed by value, flags and unique. What has not returned at the end never does.
var histories = []struct {
	name         string
	linearizable bool
	lines        string
}{
	{"one client reads what it wrote", true, `
		a get k -> END
		a set k 1 7 -> STORED
		a get k -> VALUE 1 7`},
	{"stale read", false, `
		a set k 1 -> STORED
		a set k 2 -> STORED
		b get k -> VALUE 1`},
	{"flags of an older value", false, `
		a set k 1 5 -> STORED
		a set k 1 6 -> STORED
		b get k -> VALUE 1 5`},
	{"old value while a write is under way", true, `
		a set k 1 -> STORED
		a( set k 2
		b get k -> VALUE 1
		b get k -> VALUE 2
		a) STORED`},
	{"new value, then the old one again", false, `
		a set k 1 -> STORED
		a( set k 2
		b get k -> VALUE 2
		c get k -> VALUE 1
		a) STORED`},
	{"a value that nobody wrote", false, `
		a set k 1 -> STORED
		b get k -> VALUE 2`},
	{"miss of what is stored", false, `
		a set k 1 -> STORED
		b get k -> END`},
	{"lost update: two increments read the same number", false, `
		a set k 5 -> STORED
		a( incr k 1
		b( incr k 1
		a) 6
		b) 6`},
	{"two concurrent increments, either first", true, `
		a set k 5 -> STORED
		a( incr k 1
		b( incr k 1
		a) 7
		b) 6
		a get k -> VALUE 7`},
	{"double increment: one answered increment happened twice", false, `
		a set k 5 -> STORED
		a incr k 1 -> 6
		a get k -> VALUE 7`},
	{"lost append", false, `
		a set k x -> STORED
		a( append k y
		b( append k z
		a) STORED
		b) STORED
		a get k -> VALUE xy`},
	{"append and prepend keep flags", true, `
		a set k x 3 -> STORED
		a append k y 9 -> STORED
		b prepend k w 9 -> STORED
		a get k -> VALUE wxy 3`},
	{"resurrection after delete", false, `
		a set k 1 -> STORED
		a delete k -> DELETED
		b get k -> END
		b get k -> VALUE 1`},
	{"replace after delete", false, `
		a set k 1 -> STORED
		a delete k -> DELETED
		b replace k 2 -> STORED`},
	{"two adds win", false, `
		a( add k 1
		b( add k 2
		a) STORED
		b) STORED`},
	{"one add wins", true, `
		a( add k 1
		b( add k 2
		a) NOT_STORED
		b) STORED
		a get k -> VALUE 2`},
	{"false absence: add on a stored key", false, `
		a set k 1 -> STORED
		b add k 2 -> STORED`},
	{"two deletes succeed", false, `
		a set k 1 -> STORED
		a( delete k
		b( delete k
		a) DELETED
		b) DELETED`},
	{"cas on the present unique", true, `
		a set k 1 -> STORED
		a gets k -> VALUE 1 0 11
		a cas k 2 0 11 -> STORED
		a gets k -> VALUE 2 0 12`},
	{"cas on a stale unique", false, `
		a set k 1 -> STORED
		a gets k -> VALUE 1 0 11
		b set k 2 -> STORED
		a cas k 3 0 11 -> STORED`},
	{"cas on a stale unique is refused", true, `
		a set k 1 -> STORED
		a gets k -> VALUE 1 0 11
		b set k 1 -> STORED
		a cas k 3 0 11 -> EXISTS`},
	{"cas is refused though nothing has changed", false, `
		a set k 1 -> STORED
		a gets k -> VALUE 1 0 11
		a cas k 3 0 11 -> EXISTS`},
	{"two cas on one unique", false, `
		a set k 1 -> STORED
		a gets k -> VALUE 1 0 11
		a( cas k 2 0 11
		b( cas k 3 0 11
		a) STORED
		b) STORED`},
	{"cas of a deleted key", true, `
		a set k 1 -> STORED
		a gets k -> VALUE 1 0 11
		b delete k -> DELETED
		a cas k 3 0 11 -> NOT_FOUND`},
	{"a unique used twice", false, `
		a set k 1 -> STORED
		a gets k -> VALUE 1 0 11
		a set k 1 -> STORED
		a gets k -> VALUE 1 0 11`},
	{"a unique used twice, after a delete", false, `
		a set k 1 -> STORED
		a gets k -> VALUE 1 0 11
		a delete k -> DELETED
		a set k 1 -> STORED
		a set k 1 -> STORED
		a gets k -> VALUE 1 0 11`},
	{"two uniques of one value", false, `
		a set k 1 -> STORED
		a gets k -> VALUE 1 0 11
		b gets k -> VALUE 1 0 12`},
	{"touch keeps the unique", true, `
		a set k 1 -> STORED
		a gets k -> VALUE 1 0 11
		b touch k -> TOUCHED
		a gats k -> VALUE 1 0 11
		a cas k 2 0 11 -> STORED`},
	{"touch with an exptime in the past", true, `
		a set k 1 -> STORED
		a touch k ! -> TOUCHED
		a get k -> END
		a add k 2 -> STORED`},
	{"a touched key lives on", false, `
		a set k 1 -> STORED
		a touch k ! -> TOUCHED
		a get k -> VALUE 1`},
	{"gat with an exptime in the past", true, `
		a set k 1 -> STORED
		a gats k ! -> VALUE 1 0 11
		b incr k 1 -> NOT_FOUND`},
	{"set with an exptime in the past", true, `
		a set k 1 -> STORED
		a set k 2 0 ! -> STORED
		b get k -> END`},
	{"increment of text", true, `
		a set k x -> STORED
		a incr k 1 -> NON_NUMERIC`},
	{"decrement stops at 0 and pads", true, `
		a set k 10 -> STORED
		a decr k 1 -> 9
		a get k -> VALUE 9_
		a decr k 100 -> 0`},
	{"increment wraps", true, `
		a set k 18446744073709551615 -> STORED
		a incr k 2 -> 1`},
	{"an unanswered set that took effect, late", true, `
		a set k 1 -> STORED
		a( set k 2
		b get k -> VALUE 1
		b get k -> VALUE 1
		c get k -> VALUE 2`},
	{"an unanswered set that took effect after it was given up", true, `
		a set k 1 -> STORED
		a set k 2 -> ?
		b get k -> VALUE 1
		b set k 3 -> STORED
		c get k -> VALUE 2`},
	{"an unanswered set that never took effect", true, `
		a set k 1 -> STORED
		a set k 2 -> ?
		b get k -> VALUE 1`},
	{"an unanswered set that took effect twice", false, `
		a set k 2 -> ?
		b get k -> VALUE 2
		b set k 3 -> STORED
		c get k -> VALUE 2`},
	{"an unanswered increment counted once", true, `
		a set k 5 -> STORED
		a incr k 1 -> ?
		b incr k 10 -> 15
		b incr k 10 -> 26`},
	{"an unanswered increment counted twice", false, `
		a set k 5 -> STORED
		a incr k 1 -> ?
		b incr k 10 -> 17`},
	{"an unanswered cas that took effect", true, `
		a set k 5 -> STORED
		a gets k -> VALUE 5 0 11
		a( cas k 6 0 11
		b get k -> VALUE 6`},
	{"an unanswered get says nothing", true, `
		a set k 5 -> STORED
		a get k -> ?
		b get k -> VALUE 5`},
	{"flush_all removes", true, `
		a set k 5 -> STORED
		b flush_all -> OK
		a get k -> END`},
	{"flush_all leaves something", false, `
		a set k 5 -> STORED
		b flush_all -> OK
		a get k -> VALUE 5`},
	{"a set during flush_all may survive", true, `
		b( flush_all
		a set k 5 -> STORED
		b) OK
		a get k -> VALUE 5`},
	{"an object too large removes, with set", true, `
		a set k 5 -> STORED
		a set k 6 -> TOO_LARGE
		a get k -> END`},
	{"keys are judged each by itself", true, `
		a( set k 1
		b get k -> VALUE 1
		b get l -> END
		c set l 1 -> STORED
		c get k -> VALUE 1
		a) STORED`},
	{"a bad key among good ones", false, `
		a set j 1 -> STORED
		a set k 1 -> STORED
		a set l 1 -> STORED
		a get j -> VALUE 1
		a get k -> END
		a get l -> VALUE 1`},
}

func TestHistories(t *testing.T) {
	for _, test := range histories {
		t.Run(test.name, func(t *testing.T) {
			err := record(t, test.lines).Check(0)
			var violation *Violation
			switch {
			case test.linearizable && err != nil:
				t.Fatalf("a good history is rejected: %v", err)
			case !test.linearizable && !errors.As(err, &violation):
				t.Fatalf("a bad history is accepted: %v", err)
			}
		})
	}
}

// record makes a history from its text.
func record(t *testing.T, lines string) *History {
	t.Helper()
	h, open := New(nil), map[string]int{}
	for line := range strings.Lines(lines) {
		client, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		call, answer, whole := strings.Cut(rest, " -> ")
		name := strings.TrimRight(client, "()")
		switch {
		case client == "":
			continue
		case whole:
			h.Return(h.Call(int(name[0]-'a'), parseInput(t, call)), parseOutput(t, answer))
		case strings.HasSuffix(client, "("):
			open[name] = h.Call(int(name[0]-'a'), parseInput(t, rest))
		case strings.HasSuffix(client, ")"):
			h.Return(open[name], parseOutput(t, rest))
		default:
			t.Fatalf("bad line %q", line)
		}
	}
	return h
}

func parseInput(t *testing.T, text string) Input {
	t.Helper()
	words := append(strings.Fields(text), "", "", "", "")
	in := Input{Kind: kinds, Key: words[1]}
	for k := range kinds {
		if k.String() == words[0] {
			in.Kind = k
		}
	}
	if in.Kind == kinds {
		t.Fatalf("bad command %q", text)
	}
	in.Expired = strings.HasSuffix(text, "!")
	switch {
	case in.writes():
		in.Value = words[2]
		in.Flags = uint32(number(words[3]))
		in.CAS = number(words[4])
	case in.Kind == Incr || in.Kind == Decr:
		in.Delta = number(words[2])
	}
	return in
}

func parseOutput(t *testing.T, text string) Output {
	t.Helper()
	words := append(strings.Fields(text), "", "", "")
	if n, err := strconv.ParseUint(words[0], 10, 64); err == nil {
		return Output{Status: Number, Number: n}
	}
	named := map[string]Status{"NON_NUMERIC": NonNumeric, "TOO_LARGE": TooLarge}
	for s := range statuses {
		named[s.String()] = s
	}
	status, known := named[words[0]]
	if !known {
		t.Fatalf("bad answer %q", text)
	}
	out := Output{Status: status}
	if status == Hit {
		out.Value, out.Flags, out.CAS = strings.ReplaceAll(words[1], "_", " "), uint32(number(words[2])), number(words[3])
	}
	return out
}

func number(text string) uint64 {
	n, _ := strconv.ParseUint(text, 10, 64)
	return n
}

func TestViolationIsExplained(t *testing.T) {
	err := record(t, `
		a set k 1 -> STORED
		a set k 2 -> STORED
		b get k -> VALUE 1`).Check(0)
	var violation *Violation
	if !errors.As(err, &violation) {
		t.Fatal("accepted")
	}
	for _, want := range []string{`key "k"`, "2 of 3 operations", `the item is: "2" flags=0`, `client 1 [5, 6] get k -> VALUE "1" flags=0`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in the explanation:\n%v", want, err)
		}
	}
	var page bytes.Buffer
	if err := violation.WriteHTML(&page); err != nil || page.Len() == 0 {
		t.Errorf("no picture: %v", err)
	}
}

func TestDiscardedCallsHadNoEffect(t *testing.T) {
	h := record(t, "a set k 1 -> STORED")
	id := h.Call(1, Input{Kind: Delete, Key: "k"})
	h.Return(h.Call(2, Input{Kind: Get, Key: "k"}), Output{Status: Miss})
	if err := h.Check(0); err != nil {
		t.Fatalf("the open delete explains the miss: %v", err)
	}
	h.Discard(id)
	if err := h.Check(0); err == nil {
		t.Fatal("accepted, though the delete was never sent")
	}
}

func TestUndecidedIsNotNil(t *testing.T) {
	h := New(nil)
	for i := range 40 { // 40 appends in any order, none answered, and a value that none of the orders gives
		h.Call(i, Input{Kind: Append, Key: "k", Value: fmt.Sprint(i)})
	}
	h.Return(h.Call(50, Input{Kind: Get, Key: "k"}), Output{Status: Miss})
	h.Return(h.Call(50, Input{Kind: Add, Key: "k", Value: "x"}), Output{Status: Stored})
	h.Return(h.Call(50, Input{Kind: Get, Key: "k"}), Output{Status: Hit, Value: "none"})
	var undecided *Undecided
	if err := h.Check(time.Millisecond); !errors.As(err, &undecided) || undecided.Unanswered != 40 {
		t.Fatalf("got %v", err)
	}
}

// simulated is a run of workloads against one correct memcached: operations take effect one at a time, at a random moment
// between call and return. Some answers get lost, and some of those operations never take effect.
func simulated(seed uint64, clients, operations int, flush int) *History {
	random := rand.New(rand.NewPCG(seed, 99))
	h := New(nil)
	server := newServer()
	keys := []string{"k", "l", "m"}
	type pending struct {
		id  int
		in  Input
		out *Output
	}
	workloads := make([]*Workload, clients)
	for i := range workloads {
		workloads[i] = NewWorkload(i, seed, keys)
		workloads[i].FlushWeight = flush
	}
	waiting := make([]*pending, clients)
	for range operations {
		i := random.IntN(clients)
		switch p := waiting[i]; {
		case p == nil:
			in := workloads[i].Next()
			waiting[i] = &pending{id: h.Call(i, in), in: in}
		case p.out == nil && random.IntN(300) == 0: // lost on the way there
			waiting[i] = nil
		case p.out == nil:
			out := server.do(p.in)
			p.out = &out
		case random.IntN(300) == 0: // lost on the way back
			h.Return(p.id, Output{})
			waiting[i] = nil
		default:
			h.Return(p.id, *p.out)
			workloads[i].Observe(p.in, *p.out)
			waiting[i] = nil
		}
	}
	return h
}

// server is a correct memcached, made of the model; next is the next unique.
type server struct {
	items map[string]state
	next  uint64
}

func newServer() *server { return &server{items: map[string]state{}, next: 1} }

func (s *server) do(in Input) Output {
	if in.Kind == Flush {
		clear(s.items)
		return Output{Status: OK}
	}
	before := s.items[in.Key]
	out, after := answer(before, in)
	if out.Status == Hit && (in.Kind == Gets || in.Kind == Gats) {
		out.CAS = before.unique
	}
	if after.present && after.unique == 0 {
		after.unique = s.next
		s.next++
	}
	s.items[in.Key] = after
	return out
}

func TestCorrectServerIsAccepted(t *testing.T) {
	for seed := range uint64(20) {
		if err := simulated(seed, 8, 6000, int(seed%2)).Check(time.Minute); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}

// TestBrokenServersAreRejected runs workloads, without concurrency, against servers that each break one rule.
func TestBrokenServersAreRejected(t *testing.T) {
	broken := map[string]func(s *server, in Input, seldom bool) Output{
		"stale read": func(s *server, in Input, seldom bool) Output {
			old := s.items[in.Key]
			out := s.do(in)
			if seldom && in.Kind == Set {
				s.items[in.Key] = old
			}
			return out
		},
		"double increment": func(s *server, in Input, seldom bool) Output {
			out := s.do(in)
			if seldom && in.Kind == Incr {
				s.do(in)
			}
			return out
		},
		"delete that does not": func(s *server, in Input, seldom bool) Output {
			old := s.items[in.Key]
			out := s.do(in)
			if seldom && in.Kind == Delete {
				s.items[in.Key] = old
			}
			return out
		},
		"cas that does not compare": func(s *server, in Input, seldom bool) Output {
			if old := s.items[in.Key]; seldom && in.Kind == CAS && old.present {
				in.CAS = old.unique
			}
			return s.do(in)
		},
		"a unique that comes back": func(s *server, in Input, seldom bool) Output {
			old := s.items[in.Key]
			out := s.do(in)
			if now := s.items[in.Key]; seldom && now.present && old.unique != 0 {
				now.unique = old.unique
				s.items[in.Key] = now
			}
			return out
		},
		"eviction": func(s *server, in Input, seldom bool) Output {
			if seldom {
				delete(s.items, in.Key)
			}
			return s.do(in)
		},
	}
	for name, do := range broken {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2))
			h, s, w := New(nil), newServer(), NewWorkload(0, 1, []string{"k", "l"})
			for range 3000 {
				in := w.Next()
				id := h.Call(0, in)
				out := do(s, in, random.IntN(10) == 0)
				h.Return(id, out)
				w.Observe(in, out)
			}
			var violation *Violation
			if err := h.Check(time.Minute); !errors.As(err, &violation) {
				t.Fatalf("accepted: %v", err)
			}
		})
	}
}

func TestParseNumber(t *testing.T) {
	for _, test := range []struct {
		text    string
		n       uint64
		numeric bool
	}{
		{"0", 0, true}, {"5 ", 5, true}, {" +5", 5, true}, {"1 2", 1, true}, {"18446744073709551615", 1<<64 - 1, true},
		{"", 0, false}, {"-5", 0, false}, {"5a", 0, false}, {"18446744073709551616", 0, false}, {"a", 0, false}, {" ", 0, false},
	} {
		if n, numeric := parseNumber(test.text); n != test.n || numeric != test.numeric {
			t.Errorf("%q: got %d, %v", test.text, n, numeric)
		}
	}
}
