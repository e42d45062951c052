package table

// Timestamp is the logical time of an update of one key: a Lamport clock of two words that are
// compared in order. Write is version<<8|writer, chosen by a plain write; Step is step<<8|stepper and
// counts the read-modify-writes on top of that write (0: none). The table only stores and compares it;
// package replication chooses it.
type Timestamp struct {
	Write uint64
	Step  uint64
}

// Compare returns -1, 0 or +1 as a is before, equal to or after b.
func (a Timestamp) Compare(b Timestamp) int {
	switch {
	case a.Write < b.Write:
		return -1
	case a.Write > b.Write:
		return 1
	case a.Step < b.Step:
		return -1
	case a.Step > b.Step:
		return 1
	}
	return 0
}

// Less reports whether a is before b.
func (a Timestamp) Less(b Timestamp) bool {
	return a.Write < b.Write || a.Write == b.Write && a.Step < b.Step
}

// Version is the 56-bit counter of the plain write that the time stamp is, or stands on.
func (a Timestamp) Version() uint64 { return a.Write >> 8 }

// IsZero reports whether a is the time stamp before all others, that of a key never written.
func (a Timestamp) IsZero() bool { return a == Timestamp{} }
