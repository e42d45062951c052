package server

import (
	"hermesd/replication"
	"hermesd/table"
)

// Store runs the requests of clients. A *replication.Node is one; the tests have another, which completes
// operations when and in which order they like. See replication.Node for what the methods promise.
type Store interface {
	// NewOp and FreeOp take an Op from a pool and give it back.
	NewOp() *replication.Op
	FreeOp(op *replication.Op)
	// Submit runs op. If it returns true, op.Result is filled in; if not, op.Client.Done will be called.
	Submit(op *replication.Op) (done bool)
	// FlushAll is Submit for a replication.OpFlush.
	FlushAll(op *replication.Op) (done bool)
	// Flush ends a pass: what was submitted goes out to the other replicas.
	Flush()

	// View looks at an item without a lock; what AppendValue copied of it counts only if Confirm says so.
	View(hash uint64, key []byte, now uint32, it *table.Item) (replication.Ticket, replication.ReadStatus)
	AppendValue(dst []byte, hash uint64, it *table.Item) []byte
	Confirm(tk replication.Ticket) bool

	// Serves reports whether requests that have been read may be run: the replica has its lease. Reason says why not.
	Serves() bool
	// Reason says why View answers ReadUnavailable, in words for the client.
	Reason() string
	// ItemStats counts the items, and those that were given up for want of memory or because they had expired.
	ItemStats() (items table.Stats, evictions, reclaimed uint64)
	// Stats calls f with each figure of replication.
	Stats(f func(name, value string))
}
