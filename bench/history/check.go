package history

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// Violation is the error of Check for a history that is not linearizable.
type Violation struct {
	Key string // the first such key
	// Explanation says, in some lines, how far the operations on the key can be put in order, what the item is like then, and
	// which operations can not come next.
	Explanation string

	info porcupine.LinearizationInfo
}

func (v *Violation) Error() string {
	return fmt.Sprintf("not linearizable: key %q\n%s", v.Key, v.Explanation)
}

// WriteHTML writes porcupine's picture of the key's history, a page to open in a browser.
func (v *Violation) WriteHTML(w io.Writer) error { return porcupine.Visualize(model, v.info, w) }

// Undecided is the error of Check for a history that could not be judged within the limit. It is no proof of anything: shorten the
// history, spread it over more keys, or have fewer operations without an answer.
type Undecided struct {
	Key        string
	Operations int // on the key
	Unanswered int // of these
	Limit      time.Duration
}

func (u *Undecided) Error() string {
	return fmt.Sprintf("not decided within %v: key %q with %d operations, %d of them without an answer: "+
		"record fewer operations, on more keys", u.Limit, u.Key, u.Operations, u.Unanswered)
}

// Check judges whether the operations are linearizable, key by key in the order of the keys. It returns nil, a *Violation for
// the first key where they are not, or an *Undecided for the first key that takes longer than limit (0: no limit).
func Check(operations []Operation, limit time.Duration) error {
	byKey := partition(operations)
	var undecided error
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		err := checkKey(key, byKey[key], limit)
		if _, violated := err.(*Violation); violated {
			return err
		}
		if undecided == nil {
			undecided = err
		}
	}
	return undecided
}

// partition sorts the operations by key. A flush belongs to every key.
func partition(operations []Operation) map[string][]Operation {
	byKey := make(map[string][]Operation)
	var flushes []Operation
	for _, o := range operations {
		if o.Out.Status == Unknown {
			if o.In.effectless() {
				continue
			}
			o.Return = Never
		}
		if o.In.Kind == Flush {
			flushes = append(flushes, o)
			continue
		}
		byKey[o.In.Key] = append(byKey[o.In.Key], o)
	}
	for key := range byKey {
		byKey[key] = append(byKey[key], flushes...)
	}
	return byKey
}

func checkKey(key string, operations []Operation, limit time.Duration) error {
	history := make([]porcupine.Operation, len(operations))
	unanswered := 0
	for i, o := range operations {
		history[i] = porcupine.Operation{ClientId: o.Client, Input: o.In, Call: o.Call, Output: o.Out, Return: o.Return, Metadata: o}
		if o.Out.Status == Unknown {
			unanswered++
		}
	}
	switch porcupine.CheckOperationsTimeout(model, history, limit) {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return &Undecided{Key: key, Operations: len(operations), Unanswered: unanswered, Limit: limit}
	}
	// Once more, to find out where it fails; that may take longer, and need not be complete.
	_, info := porcupine.CheckOperationsVerbose(model, history, max(limit, time.Minute))
	return &Violation{Key: key, Explanation: explain(operations, info), info: info}
}

// explainedOperations bounds the lists of an explanation.
const explainedOperations = 12

// explain describes where the longest order that porcupine found ends.
func explain(operations []Operation, info porcupine.LinearizationInfo) string {
	var longest []porcupine.Operation
	for _, partitions := range info.PartialLinearizationsOperations() {
		for _, order := range partitions {
			if len(order) > len(longest) {
				longest = order
			}
		}
	}
	s := state{}
	ordered := make(map[int64]bool) // by Call, which is unique
	for _, o := range longest {
		_, s = step(s, o.Input.(Input), o.Output.(Output))
		ordered[o.Call] = true
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d operations can be put in order, the last of them:\n", len(longest), len(operations))
	for _, o := range longest[max(0, len(longest)-explainedOperations):] {
		fmt.Fprintf(&b, "  %v\n", o.Metadata)
	}
	fmt.Fprintf(&b, "then the item is: %v; and none of these can come next:\n", s)
	open, firstReturn := []Operation(nil), Never
	for _, o := range operations {
		if !ordered[o.Call] {
			open, firstReturn = append(open, o), min(firstReturn, o.Return)
		}
	}
	slices.SortFunc(open, func(a, b Operation) int { return int(a.Return - b.Return) })
	listed := 0
	for _, o := range open {
		if o.Call <= firstReturn && listed < explainedOperations {
			fmt.Fprintf(&b, "  %v\n", o)
			listed++
		}
	}
	return strings.TrimRight(b.String(), "\n")
}
