package table

// State is what replication has to know of a key besides its time stamp and value. The zero State is a
// valid key with a value.
type State uint8

const (
	// Invalid: an update of this time stamp is known here, but not yet that every replica knows it.
	Invalid State = 1 << iota
	// Tombstone: the key has a time stamp but no value (deleted).
	Tombstone
	// OnAbsent: the update that wrote this was a read-modify-write on an absent key (add, vivify).
	OnAbsent
)

// Item is the decoded header of a stored key. It is a copy: changing it changes nothing in the table
// until it is given to Put or Update. The unexported part says where the item lies, and is good only
// until the lane changes next.
type Item struct {
	TS       Timestamp
	CAS      uint64 // memcached's "cas unique"
	Exptime  uint32 // absolute Unix seconds; 0: never expires
	Flags    uint32 // the client's flags
	State    State
	Finisher uint8 // while Invalid: number of the member that finishes the update
	ValueLen int   // bytes

	where
}

// Expired reports whether the item's exptime has come at now (Unix seconds).
func (it *Item) Expired(now uint32) bool { return it.Exptime != 0 && it.Exptime <= now }
