package replication

import "hermesd/table"

// OpKind is what a client asks of one key. The names are memcached's.
type OpKind uint8

const (
	OpGet OpKind = iota
	OpSet
	OpAdd
	OpReplace
	OpAppend
	OpPrepend
	OpCAS
	OpIncr
	OpDecr
	OpTouch
	OpGat
	OpDelete
	OpFlush  // flush_all: no key
	opEvict  // the server's own delete of an item as it was read
	opReplay // another member's update, which that cannot finish any more
)

// Status is the outcome of an operation.
type Status uint8

const (
	Pending     Status = iota
	Hit                // get, gat: Value, Flags, CAS
	Miss               // get, gat
	Stored             // set, add, replace, append, prepend, cas
	NotStored          // add: exists; replace, append, prepend: missing, or the result is too large
	Exists             // cas: the unique differs
	NotFound           // cas, incr, decr, touch, delete
	Deleted            //
	Touched            //
	Number             // incr, decr: Number
	NonNumeric         // incr, decr
	Flushed            // flush_all
	OutOfMemory        // nothing could be evicted for it
	Unavailable        // the group could not be asked, or did not answer in time: Err says why. The update may still happen.
)

// Client is told when an operation that had to wait is finished.
type Client interface {
	// Done is called once for every op whose Submit returned false, on any goroutine, without any lane's lock. It must not wait
	// for anything that this package does: the call may come from the reader of a peer's channel. The op belongs to the client again. What it returns, unless nil, is called
	// once at the end of the pass of work.
	Done(op *Op) Flusher
}

// Flusher sends what a pass of work has produced for one client connection.
type Flusher interface{ Flush() }

// Op is one operation of a client, and the record of its update while that is in flight. The caller sets the exported
// fields, calls Submit, and leaves the op alone until it is done.
type Op struct {
	Kind    OpKind
	Hash    uint64 // table.Hash(Key)
	Key     []byte // the caller's memory; what is needed after Submit returns false has been copied
	Value   []byte // likewise
	Flags   uint32
	Exptime uint32 // absolute Unix seconds; 0: never; in the past: already expired
	CAS     uint64 // OpCAS: the unique to compare with
	Delta   uint64 // OpIncr, OpDecr
	Now     uint32 // Unix seconds, read after the request was
	Client  Client // not used if Submit returns true
	Tag     uint64 // the client's own

	Result Result

	// The rest is the engine's.
	ts       table.Timestamp // of the attempt in flight
	id       uint64          // names the attempt in messages
	acked    uint64          // members that have acknowledged it
	item     table.Item      // the header that the attempt writes
	newValue []byte          // the value that the attempt writes
	owned    []byte          // memory of Key and Value once copied
	built    []byte          // memory of a computed value
	phase    phase
	minimum  uint64 // version that an RMW on an absent key must exceed: learnt from NACK(absent, D)
	replay   bool   // it finishes what a member that is gone has begun; it has no client
	losses   uint32 // attempts outranked
	started  uint64 // Env.Now when it had to wait first, which is that of Submit
	next     *Op    // in the key's queue, or in a free list
}

// Result is the outcome of an Op.
type Result struct {
	Status Status
	Flags  uint32
	CAS    uint64 // of the item read, or of the item as stored
	Number uint64
	Value  []byte // the op's memory: good until FreeOp or the next Submit
	Err    string // Unavailable
}

type phase uint8

const (
	idle     phase = iota
	queued         // waits in its key's queue
	inFlight       // its attempt gathers acknowledgements
	answered       // in flight, but its client has been told Unavailable
)

// isRMW reports whether the operation computes from the value that it reads.
func (op *Op) isRMW() bool { return op.Kind > OpSet && op.Kind != OpFlush }

// chained reports whether the record in flight is found by its key too.
func (op *Op) chained() bool { return op.ts.Step != 0 && !op.replay }

// own copies key and value into the op's memory, so that it can outlive the caller's buffers.
func (op *Op) own() {
	n := len(op.Key)
	op.owned = append(append(op.owned[:0], op.Key...), op.Value...)
	op.Key, op.Value = op.owned[:n:n], op.owned[n:]
}

// keptBuffer bounds the memory, in bytes, that a free op keeps for its next use.
const keptBuffer = 16 << 10

// reset makes the op ready for its next use and keeps its small buffers.
func (op *Op) reset() {
	owned, built, value := keep(op.owned), keep(op.built), keep(op.Result.Value)
	*op = Op{owned: owned, built: built}
	op.Result.Value = value
}

func keep(b []byte) []byte {
	if cap(b) > keptBuffer {
		return nil
	}
	return b[:0]
}
