package history

import (
	"fmt"
	"strings"
	"time"
)

// Kind is a command of the protocol.
type Kind uint8

const (
	Get Kind = iota
	Gets
	Gat
	Gats
	Set
	Add
	Replace
	Append
	Prepend
	CAS
	Incr
	Decr
	Touch
	Delete
	Flush // flush_all: of every key, for each key at some moment between call and return
	kinds
)

var kindNames = [kinds]string{"get", "gets", "gat", "gats", "set", "add", "replace", "append", "prepend", "cas", "incr", "decr",
	"touch", "delete", "flush_all"}

// String returns the command's name in the protocol.
func (k Kind) String() string {
	if k >= kinds {
		return fmt.Sprintf("Kind(%d)", uint8(k))
	}
	return kindNames[k]
}

// Input is what a client asked for. Fields that the command does not have are zero.
type Input struct {
	Kind  Kind
	Key   string // one key; a get of many is recorded as many operations with the same call and return. Flush has none
	Value string
	Flags uint32
	// Expired says that the exptime given lies in the past: once the command has been carried out the item is gone. It
	// applies to gat, gats, touch, set, add, replace and cas.
	Expired bool
	CAS     uint64 // the unique that cas compares with
	Delta   uint64 // of incr and decr
}

// Status is the kind of an answer.
type Status uint8

const (
	Unknown    Status = iota // no answer, or one that does not say whether the command was carried out
	Hit                      // VALUE
	Miss                     // END alone
	Stored                   // STORED
	NotStored                // NOT_STORED
	Exists                   // EXISTS
	NotFound                 // NOT_FOUND
	Deleted                  // DELETED
	Touched                  // TOUCHED
	Number                   // a number
	NonNumeric               // CLIENT_ERROR cannot increment or decrement non-numeric value
	TooLarge                 // SERVER_ERROR object too large for cache
	OK                       // OK
	statuses
)

var statusNames = [statuses]string{"?", "VALUE", "END", "STORED", "NOT_STORED", "EXISTS", "NOT_FOUND", "DELETED", "TOUCHED", "",
	"non-numeric", "too large", "OK"}

// String returns the answer's text in the protocol, or close to it; of Unknown it is "?".
func (s Status) String() string {
	if s >= statuses {
		return fmt.Sprintf("Status(%d)", uint8(s))
	}
	return statusNames[s]
}

// Output is what a client was answered. The zero Output is Unknown.
type Output struct {
	Status Status
	Value  string // of Hit
	Flags  uint32 // of Hit
	CAS    uint64 // of Hit: the item's unique, 0 if the answer did not tell
	Number uint64 // of Number
}

// Operation is an input with its output and its place in the history.
type Operation struct {
	Client int // for people: which client it was
	In     Input
	Out    Output
	// Call and Return order the calls and returns of a history: positions, not times. Return is Never for operations that
	// had not returned when the history was checked; operations with Status Unknown count as such, whatever it is.
	Call, Return int64
	// Called and Returned are the times that the history's clock showed, for people.
	Called, Returned time.Duration
}

// Never is the Return of an operation without one.
const Never = int64(1)<<62 - 1

// String describes the operation in one line: who, when, what, answer.
func (o Operation) String() string {
	end := "never"
	if o.Return != Never {
		end = fmt.Sprint(o.Return)
	}
	text := fmt.Sprintf("client %d [%d, %s] %v", o.Client, o.Call, end, describe(o.In, o.Out))
	if o.Called != 0 || o.Returned != 0 {
		text += fmt.Sprintf(" (%v to %v)", o.Called, o.Returned)
	}
	return text
}

// describe describes an operation without its place.
func describe(in Input, out Output) string {
	var b strings.Builder
	b.WriteString(in.Kind.String())
	if in.Key != "" {
		fmt.Fprintf(&b, " %s", in.Key)
	}
	if in.writes() {
		fmt.Fprintf(&b, " %q", in.Value)
		if in.Flags != 0 {
			fmt.Fprintf(&b, " flags=%d", in.Flags)
		}
	}
	switch in.Kind {
	case CAS:
		fmt.Fprintf(&b, " cas=%d", in.CAS)
	case Incr, Decr:
		fmt.Fprintf(&b, " %d", in.Delta)
	}
	if in.Expired {
		b.WriteString(" exptime=-1")
	}
	fmt.Fprintf(&b, " -> %v", out.Status)
	switch out.Status {
	case Hit:
		fmt.Fprintf(&b, " %q flags=%d", out.Value, out.Flags)
		if out.CAS != 0 {
			fmt.Fprintf(&b, " cas=%d", out.CAS)
		}
	case Number:
		fmt.Fprint(&b, out.Number)
	}
	return b.String()
}

// writes reports whether the command carries a value.
func (in *Input) writes() bool { return in.Kind >= Set && in.Kind <= CAS }

// effectless reports whether the operation, had it been carried out, could not be told from one that had not: where the
// answer is not known either, it says nothing.
func (in *Input) effectless() bool {
	return in.Kind <= Gats && !in.Expired || in.Kind == Touch && !in.Expired
}
