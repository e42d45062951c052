package history

import (
	"fmt"
	"hash/maphash"
	"strconv"
	"strings"

	"github.com/anishathalye/porcupine"
)

// state is what a memcached has under one key. An absent item has no other fields but retired.
type state struct {
	present bool
	value   string
	flags   uint32
	// unique is the item's cas unique, once an answer has told it: 0 before. Each change of value gives a new one; touch and gat do not.
	unique uint64
	// retired are the uniques that were seen on earlier values of this key. They may not come back.
	retired *retired
}

// retired is a list that states share: it only ever grows at the front.
type retired struct {
	unique uint64
	rest   *retired
}

func (r *retired) has(unique uint64) bool {
	for ; r != nil; r = r.rest {
		if r.unique == unique {
			return true
		}
	}
	return false
}

// written returns the state after the item was given a new value, or, where gone, none.
func (s state) written(value string, flags uint32, gone bool) state {
	next := state{present: true, value: value, flags: flags, retired: s.retired}
	if s.unique != 0 {
		next.retired = &retired{s.unique, s.retired}
	}
	if gone {
		return state{retired: next.retired}
	}
	return next
}

func (s state) removed() state { return s.written("", 0, true) }

// touched returns the state after the item was given another exptime.
func (s state) touched(gone bool) state {
	if gone {
		return s.removed()
	}
	return s
}

// step says whether a memcached in state s could answer in with out, and its state after that. An unknown answer is
// possible in every state.
func step(s state, in Input, out Output) (bool, state) {
	want, next := answer(s, in)
	if out.Status == Unknown {
		return true, next
	}
	if out.Status == TooLarge && in.writes() {
		// A set that does not fit removes the old value; other commands leave it.
		if in.Kind == Set {
			return true, s.removed()
		}
		return true, s
	}
	if out.Status != want.Status || out.Number != want.Number {
		return false, s
	}
	if out.Status == Hit {
		if out.Value != want.Value || out.Flags != want.Flags {
			return false, s
		}
		if out.CAS != 0 {
			return seen(s, in, out.CAS, next)
		}
	}
	return true, next
}

// seen judges the unique that came with a value: the one known, or, if none is, one that no earlier value had.
func seen(s state, in Input, unique uint64, next state) (bool, state) {
	if s.unique != 0 {
		return s.unique == unique, next
	}
	if s.retired.has(unique) {
		return false, s
	}
	s.unique = unique
	return true, s.touched(in.Expired)
}

// answer returns what a memcached in state s answers (the unique aside), and its state after that.
func answer(s state, in Input) (Output, state) {
	status := func(st Status) Output { return Output{Status: st} }
	absent := func(st Status) (Output, state) { return Output{Status: st}, s }
	switch in.Kind {
	case Flush:
		return status(OK), s.removed()
	case Set:
		return status(Stored), s.written(in.Value, in.Flags, in.Expired)
	case Add:
		if s.present {
			return absent(NotStored)
		}
		return status(Stored), s.written(in.Value, in.Flags, in.Expired)
	}
	if !s.present {
		switch in.Kind {
		case Get, Gets, Gat, Gats:
			return absent(Miss)
		case Replace, Append, Prepend:
			return absent(NotStored)
		}
		return absent(NotFound)
	}
	switch in.Kind {
	case Get, Gets:
		return Output{Status: Hit, Value: s.value, Flags: s.flags}, s
	case Gat, Gats:
		return Output{Status: Hit, Value: s.value, Flags: s.flags}, s.touched(in.Expired)
	case Touch:
		return status(Touched), s.touched(in.Expired)
	case Delete:
		return status(Deleted), s.removed()
	case Replace:
		return status(Stored), s.written(in.Value, in.Flags, in.Expired)
	case Append:
		return status(Stored), s.written(s.value+in.Value, s.flags, false)
	case Prepend:
		return status(Stored), s.written(in.Value+s.value, s.flags, false)
	case CAS:
		// Whoever gives a unique has seen it: if this value's has not been seen, it is another's.
		if s.unique == 0 || s.unique != in.CAS {
			return status(Exists), s
		}
		return status(Stored), s.written(in.Value, in.Flags, in.Expired)
	case Incr, Decr:
		return count(s, in)
	}
	panic(fmt.Sprintf("history: unknown %v", in.Kind))
}

// count is incr and decr of an item: incr wraps at 2^64, decr stops at 0, and a number that is shorter than the value was is
// padded with blanks.
func count(s state, in Input) (Output, state) {
	n, numeric := parseNumber(s.value)
	if !numeric {
		return Output{Status: NonNumeric}, s
	}
	switch {
	case in.Kind == Incr:
		n += in.Delta
	case in.Delta > n:
		n = 0
	default:
		n -= in.Delta
	}
	text := strconv.FormatUint(n, 10)
	if pad := len(s.value) - len(text); pad > 0 {
		text += strings.Repeat(" ", pad)
	}
	return Output{Status: Number, Number: n}, s.written(text, s.flags, false)
}

// parseNumber reads a value as memcached does: C's strtoull, followed by the end or a blank, and without a minus.
func parseNumber(value string) (uint64, bool) {
	const blanks = " \t\n\v\f\r"
	digits := strings.TrimPrefix(strings.TrimLeft(value, blanks), "+")
	end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		if !strings.ContainsRune(blanks, rune(digits[end])) {
			return 0, false
		}
		digits = digits[:end]
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0, false
	}
	return n, true
}

var hashSeed = maphash.MakeSeed()

// model is the model of one key for porcupine. Which uniques are retired depends only on the operations that have been carried
// out, not on their order, so states need not be compared in that.
var model = porcupine.Model{
	Init: func() any { return state{} },
	Step: func(s, in, out any) (bool, any) {
		ok, next := step(s.(state), in.(Input), out.(Output))
		return ok, next
	},
	Equal: func(a, b any) bool {
		x, y := a.(state), b.(state)
		return x.present == y.present && x.value == y.value && x.flags == y.flags && x.unique == y.unique
	},
	Hash: func(a any) uint64 {
		x := a.(state)
		return maphash.Comparable(hashSeed, state{present: x.present, value: x.value, flags: x.flags, unique: x.unique})
	},
	DescribeOperation: func(in, out any) string { return describe(in.(Input), out.(Output)) },
	DescribeState:     func(s any) string { return s.(state).String() },
}

func (s state) String() string {
	if !s.present {
		return "absent"
	}
	text := fmt.Sprintf("%q flags=%d", s.value, s.flags)
	if s.unique != 0 {
		text += fmt.Sprintf(" cas=%d", s.unique)
	}
	return text
}
