package replication

import (
	"hermesd/replication/views"
	"hermesd/table"
)

// Kind says what a Message is. The names are the paper's (section 3) where it has one.
type Kind uint8

const (
	// INV carries an update to a follower: TS, Key, Value, Flags, Exptime, CAS, Bits; ID names the record at the
	// coordinator. With BitFlush it has no key: it invalidates everything of the lane that is older than TS.
	INV Kind = 1 + iota
	// ACK says that the follower has the update (or something newer): ID and TS of the INV.
	ACK
	// NACK refuses a read-modify-write: ID and TS of the INV; Newer and the value fields are the follower's own state.
	// With BitAbsent the follower holds nothing, and Newer is the greatest time stamp that its lane has dropped.
	NACK
	// VAL says that every replica has the update TS of Key (BitFlush: of the lane).
	VAL
	// PROBE asks the finisher of the update TS of Key what became of it. BitTombstone: the update was a delete.
	PROBE
	// STATE answers a PROBE: Key and TS of the probe; Newer and the value fields are the state that is valid at the
	// finisher, or BitAbsent.
	STATE
	// CLOCKASK asks for the receiver's clock of the lane, after it has been raised to the message's.
	CLOCKASK
	// CLOCK carries nothing but the lane's clock, which every message carries.
	CLOCK
	// MARK follows the last update that was sent again after a connection break; clocks count from here on.
	MARK
	// CREDIT is between nodes, not lanes: ID is the number of bytes, counted from the beginning of the
	// connection pair's life, that the sender is ready to store.
	CREDIT
	// FETCH is a member that catches up asking a serving one for entries of the lane: ID names the question, CAS is the cursor from which, Flags
	// about how many bytes.
	FETCH
	// ENTRY is a key as it is at the member that sends it: TS, Key, the value fields, Bits, and, with BitInvalid, the finisher. With
	// BitFlush it is the lane's floor.
	ENTRY
	// FETCHED ends the answer to the FETCH named by ID: CAS is the cursor to go on from. With BitComplete that was the end of the lane, and
	// Newer is the greatest time stamp that the sender has dropped.
	FETCHED

	// NEEDROOM is between nodes: a member that catches up has no memory for what comes, and evicts nothing; ID is how many bytes the others should free.
	NEEDROOM

	kindEnd
)

var kindNames = [...]string{INV: "INV", ACK: "ACK", NACK: "NACK", VAL: "VAL", PROBE: "PROBE", STATE: "STATE",
	CLOCKASK: "CLOCKASK", CLOCK: "CLOCK", MARK: "MARK", CREDIT: "CREDIT",
	FETCH: "FETCH", ENTRY: "ENTRY", FETCHED: "FETCHED", NEEDROOM: "NEEDROOM"}

func (k Kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return "?"
}

// Bits of a Message.
const (
	BitTombstone uint8 = 1 << iota // the state is a deleted key: no value
	BitOnAbsent                    // the update is a read-modify-write on an absent key
	BitFlush                       // the update is a flush of the whole lane: no key
	BitAbsent                      // NACK, STATE: the key is not stored at the sender
	BitTired                       // INV: a read-modify-write that has lost several times; others hold back theirs
	BitReplay                      // INV: sent again by another than the writer or stepper of TS, who has left the view
	BitInvalid                     // ENTRY: the key is not valid at the sender
	BitComplete                    // FETCHED: the whole lane has been sent
)

// Member is one life of a replica.
type Member = views.Member

// MaxMember is the greatest member number; sets of members are 64-bit masks.
const MaxMember = views.MaxMember

// Message is what members say to each other about one lane. Key and Value belong to the giver: they
// are good only during the call that hands the message over.
type Message struct {
	Kind  Kind
	Bits  uint8
	Lane  uint8
	From  Member // the sending incarnation; void outside the current view
	Epoch uint64 // of the view that the sender was in
	Clock uint64 // the sender's clock of the lane when the message was enqueued

	ID       uint64 // names the coordinator's record; echoed by ACK and NACK
	TS       table.Timestamp
	Newer    table.Timestamp // NACK, STATE
	Finisher uint8           // NACK, ENTRY: who finishes Newer, or TS
	Flags    uint32
	Exptime  uint32
	CAS      uint64
	Key      []byte
	Value    []byte
}

// IsRMW reports whether the update that the message names is a read-modify-write: it stands on a write.
func (m *Message) IsRMW() bool { return m.TS.Step != 0 }
