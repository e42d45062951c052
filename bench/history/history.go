package history

import (
	"slices"
	"sync"
	"time"
)

// History is a recording. Its methods may be called from any goroutine.
type History struct {
	clock func() time.Duration

	mu         sync.Mutex
	position   int64
	operations []Operation
	discarded  map[int]bool
}

// New returns an empty history. clock, unless nil, is asked for the time of every call and return; times only help people to
// find their way in logs: what counts is the order in which Call and Return are called.
func New(clock func() time.Duration) *History {
	if clock == nil {
		clock = func() time.Duration { return 0 }
	}
	return &History{clock: clock, discarded: make(map[int]bool)}
}

// Call records that a client is about to ask for something, and returns a number for Return. It must be called before
// the request can have any effect.
func (h *History) Call(client int, in Input) (id int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.position++
	h.operations = append(h.operations, Operation{Client: client, In: in, Call: h.position, Return: Never, Called: h.clock()})
	return len(h.operations) - 1
}

// Return records the answer to a call. It must be called after the answer was given. An operation that is never
// answered may be left without Return.
func (h *History) Return(id int, out Output) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := &h.operations[id]
	if o.Return != Never {
		panic("history: two returns of one call: " + o.String())
	}
	h.position++
	o.Out, o.Return, o.Returned = out, h.position, h.clock()
}

// Discard takes back a call of which it is certain that it had no effect and never will: the request was not sent.
func (h *History) Discard(id int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.discarded[id] = true
}

// Operations returns a copy of what has been recorded, in the order of the calls.
func (h *History) Operations() []Operation {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.discarded) == 0 {
		return slices.Clone(h.operations)
	}
	var kept []Operation
	for id, o := range h.operations {
		if !h.discarded[id] {
			kept = append(kept, o)
		}
	}
	return kept
}

// Check judges what has been recorded: see the function Check.
func (h *History) Check(limit time.Duration) error { return Check(h.Operations(), limit) }
