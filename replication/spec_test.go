package replication

import (
	"fmt"
	"slices"
	"strings"
)

// This file is what the explorer compares the engine with: a memcached of one key, and all the ways in which what clients have seen can be
// put in order on it. A way is kept up to date with every answer, so that the first state in which no way is left is the
// first that is not linearizable, and equal sets of ways mean equal futures.

// request is an operation of the explorer's clients.
type request struct {
	at    int // index of the replica
	kind  OpKind
	key   string
	value string
	delta uint64
	dead  bool // the exptime given lies in the past
	// A cas compares with the unique of the item that the prologue has left; where there is none, with one that no item has.
}

var opNames = [...]string{OpGet: "get", OpSet: "set", OpAdd: "add", OpReplace: "replace", OpAppend: "append", OpPrepend: "prepend", OpCAS: "cas",
	OpIncr: "incr", OpDecr: "decr", OpTouch: "touch", OpGat: "gat", OpDelete: "delete", OpFlush: "flush", opEvict: "evict", opReplay: "replay"}

func (r *request) String() string {
	s := memberName(uint8(r.at+1)) + ":" + opNames[r.kind]
	if r.kind != OpFlush && r.key != "k" {
		s += "(" + r.key + ")"
	}
	if r.dead {
		s += "-1"
	}
	return s
}

// content is what memcached holds under a key. cas is the index of the request that gave the value its unique, -1 for the prologue.
type content struct {
	present bool
	value   string
	cas     int8
}

func (c content) String() string {
	if !c.present {
		return "absent"
	}
	return fmt.Sprintf("%q", c.value)
}

// outcome is an answer.
type outcome struct {
	status Status
	number uint64
	value  string
}

func (o outcome) String() string {
	s := [...]string{"pending", "hit", "miss", "stored", "not stored", "exists", "not found", "deleted", "touched", "number", "not a number", "flushed",
		"out of memory", "unavailable"}[o.status]
	if o.status == Number {
		s = fmt.Sprint(o.number)
	}
	if o.status == Hit {
		s += fmt.Sprintf(" %q", o.value)
	}
	return s
}

// run is memcached: what request i does to c, and is answered.
func (r *request) run(i int, c content) (outcome, content) {
	stored := func(value string) (outcome, content) {
		if r.dead {
			return outcome{status: Stored}, content{}
		}
		return outcome{status: Stored}, content{true, value, int8(i)}
	}
	switch r.kind {
	case OpSet:
		return stored(r.value)
	case OpAdd:
		if c.present {
			return outcome{status: NotStored}, c
		}
		return stored(r.value)
	case OpFlush:
		return outcome{status: Flushed}, content{}
	}
	if !c.present {
		switch r.kind {
		case OpGet, OpGat:
			return outcome{status: Miss}, c
		case OpAppend, OpPrepend, OpReplace:
			return outcome{status: NotStored}, c
		case opEvict: // the item was there, and expired
			return outcome{status: Deleted}, c
		}
		return outcome{status: NotFound}, c
	}
	switch r.kind {
	case OpGet:
		return outcome{status: Hit, value: c.value}, c
	case OpReplace:
		return stored(r.value)
	case OpAppend:
		return outcome{status: Stored}, content{true, c.value + r.value, int8(i)}
	case OpPrepend:
		return outcome{status: Stored}, content{true, r.value + c.value, int8(i)}
	case OpCAS:
		if c.cas != -1 {
			return outcome{status: Exists}, c
		}
		return stored(r.value)
	case OpIncr, OpDecr:
		n, ok := parseNumber([]byte(c.value))
		if !ok {
			return outcome{status: NonNumeric}, c
		}
		switch {
		case r.kind == OpIncr:
			n += r.delta
		case n < r.delta:
			n = 0
		default:
			n -= r.delta
		}
		return outcome{status: Number, number: n}, content{true, fmt.Sprintf("%-*d", len(c.value), n), int8(i)}
	case OpTouch, OpGat:
		o := outcome{status: Touched}
		if r.kind == OpGat {
			o = outcome{status: Hit, value: c.value}
		}
		if r.dead {
			return o, content{}
		}
		return o, c
	case OpDelete, opEvict:
		return outcome{status: Deleted}, content{}
	}
	panic("spec: " + r.String())
}

// maxRequests bounds the requests of a configuration.
const maxRequests = 6

// way is one possible order so far: which requests have taken effect, what the key holds then, and the answers owed to those
// that have taken effect and are not answered yet.
type way struct {
	ran  uint8
	now  content
	owed [maxRequests]outcome
}

// ways are all possible orders for one key, in the order of their encodings.
type ways []way

// judge follows the ways of one key. Sets of ways are numbered, and what a step makes of a set is worked out once.
type judge struct {
	key      string
	requests []request
	after    []uint8 // by request: those that must have taken effect before it
	sets     []ways
	numbers  map[string]int32
	known    map[question]int32
}

// noWay is the number of the empty set: what has been answered or could be read is not linearizable.
const noWay = 0

// question is a step for a set of ways.
type question struct {
	set  int32
	what byte
	arg  uint8 // the request, or the set of open ones
	o    outcome
}

// newJudge returns a judge of one key. If ordered, what is asked of one replica takes effect in the order in which it was asked, as a client that
// sends many requests at once on one connection expects; but a flush, which concerns other keys too, and evictions may overtake.
func newJudge(key string, requests []request, ordered bool) *judge {
	after := make([]uint8, len(requests))
	for i := range requests {
		for h := range i {
			if ordered && requests[h].at == requests[i].at && requests[h].inOrder(key) && requests[i].inOrder(key) {
				after[i] |= 1 << h
			}
		}
	}
	j := &judge{key: key, requests: requests, after: after, numbers: make(map[string]int32), known: make(map[question]int32)}
	j.number(nil)
	return j
}

func (r *request) inOrder(key string) bool {
	return r.key == key && r.kind != OpFlush && r.kind != opEvict
}

// number returns the set's number.
func (j *judge) number(ws ways) int32 {
	slices.SortFunc(ws, func(a, b way) int { return strings.Compare(a.encode(), b.encode()) })
	ws = slices.Compact(ws)
	var all strings.Builder
	for _, w := range ws {
		all.WriteString(w.encode())
	}
	n, ok := j.numbers[all.String()]
	if !ok {
		n = int32(len(j.sets))
		j.sets = append(j.sets, ws)
		j.numbers[all.String()] = n
	}
	return n
}

// ask returns the number of the set that f makes of q's.
func (j *judge) ask(q question, f func(ways) ways) int32 {
	n, ok := j.known[q]
	if !ok {
		n = j.number(f(slices.Clone(j.sets[q.set])))
		j.known[q] = n
	}
	return n
}

// grow adds the ways in which requests that are open, and concern the key, have taken effect by now.
func (j *judge) grow(set int32, open uint8) int32 {
	return j.ask(question{set: set, what: 'g', arg: open}, func(ws ways) ways {
		seen := make(map[way]bool, len(ws)*2)
		for _, w := range ws {
			seen[w] = true
		}
		for n := 0; n < len(ws); n++ {
			w := ws[n]
			for i := range j.requests {
				r := &j.requests[i]
				if open&^w.ran&(1<<i) == 0 || r.key != j.key && r.kind != OpFlush || j.after[i]&^w.ran != 0 {
					continue
				}
				next := w
				next.ran |= 1 << i
				next.owed[i], next.now = r.run(i, w.now)
				if !seen[next] {
					seen[next] = true
					ws = append(ws, next)
				}
			}
		}
		return ws
	})
}

// answer keeps the ways in which request i has taken effect and is owed o.
func (j *judge) answer(set int32, i int, o outcome) int32 {
	return j.ask(question{set, 'a', uint8(i), o}, func(ws ways) (kept ways) {
		for _, w := range ws {
			if w.ran&(1<<i) != 0 && w.owed[i] == o {
				w.owed[i] = outcome{}
				kept = append(kept, w)
			}
		}
		return kept
	})
}

// refuse keeps the ways in which request i has not taken effect; now it never will.
func (j *judge) refuse(set int32, i int) int32 {
	return j.ask(question{set: set, what: 'r', arg: uint8(i)}, func(ws ways) (kept ways) {
		for _, w := range ws {
			if w.ran&(1<<i) == 0 {
				w.ran |= 1 << i
				kept = append(kept, w)
			}
		}
		return kept
	})
}

// read keeps the ways in which the key now holds a value, or none.
func (j *judge) read(set int32, present bool, value string) int32 {
	o := outcome{status: Miss}
	if present {
		o = outcome{status: Hit, value: value}
	}
	return j.ask(question{set: set, what: 'h', o: o}, func(ws ways) (kept ways) {
		for _, w := range ws {
			if w.now.present == present && (!present || w.now.value == value) {
				kept = append(kept, w)
			}
		}
		return kept
	})
}

func (w way) encode() string {
	var e encoder
	e.num(uint64(w.ran), uint64(w.now.cas+2))
	e.flag(w.now.present)
	e.str(w.now.value)
	for _, o := range w.owed {
		e.num(uint64(o.status), o.number)
		e.str(o.value)
	}
	return string(e.b)
}

func (ws ways) String() string {
	var b strings.Builder
	for _, w := range ws {
		fmt.Fprintf(&b, "  taken effect: %06b, the key holds %v, owed:", w.ran, w.now)
		for i, o := range w.owed {
			if o.status != Pending {
				fmt.Fprintf(&b, " %d: %v", i, o)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}
