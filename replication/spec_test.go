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
	fresh bool // cas: with a unique that no item has; else with that of the prologue's item
}

var opNames = [...]string{OpGet: "get", OpSet: "set", OpAdd: "add", OpReplace: "replace", OpAppend: "append", OpPrepend: "prepend", OpCAS: "cas",
	OpIncr: "incr", OpDecr: "decr", OpTouch: "touch", OpGat: "gat", OpDelete: "delete", OpFlush: "flush", opEvict: "evict"}

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
		if r.fresh || c.cas != -1 {
			return outcome{status: Exists}, c
		}
		return stored(r.value)
	case OpIncr:
		n, ok := parseNumber([]byte(c.value))
		if !ok {
			return outcome{status: NonNumeric}, c
		}
		n += r.delta
		return outcome{status: Number, number: n}, content{true, fmt.Sprint(n), int8(i)}
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

// grow adds the ways in which requests that are open, and concern the key, have taken effect by now.
func (ws ways) grow(requests []request, open uint8, key string) ways {
	seen := make(map[way]bool, len(ws)*2)
	for _, w := range ws {
		seen[w] = true
	}
	for i := 0; i < len(ws); i++ {
		w := ws[i]
		for j := range requests {
			r := &requests[j]
			if open&^w.ran&(1<<j) == 0 || r.key != key && r.kind != OpFlush {
				continue
			}
			next := w
			next.ran |= 1 << j
			next.owed[j], next.now = r.run(j, w.now)
			if !seen[next] {
				seen[next] = true
				ws = append(ws, next)
			}
		}
	}
	return ws
}

// answer keeps the ways in which request i has taken effect and is owed o.
func (ws ways) answer(i int, o outcome) ways {
	var kept ways
	for _, w := range ws {
		if w.ran&(1<<i) != 0 && w.owed[i] == o {
			w.owed[i] = outcome{}
			kept = append(kept, w)
		}
	}
	return kept.unique()
}

// refuse keeps the ways in which request i, an eviction, has not taken effect; now it never will.
func (ws ways) refuse(i int) ways {
	var kept ways
	for _, w := range ws {
		if w.ran&(1<<i) == 0 {
			w.ran |= 1 << i
			kept = append(kept, w)
		}
	}
	return kept.unique()
}

// read keeps the ways in which the key now holds a value, or none.
func (ws ways) read(present bool, value string) ways {
	var kept ways
	for _, w := range ws {
		if w.now.present == present && w.now.value == value {
			kept = append(kept, w)
		}
	}
	return kept
}

func (ws ways) unique() ways {
	slices.SortFunc(ws, func(a, b way) int { return strings.Compare(a.encode(), b.encode()) })
	return slices.Compact(ws)
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
