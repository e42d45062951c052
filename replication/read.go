package replication

import "hermesd/table"

// ReadStatus is what a read without the lane's lock has come to.
type ReadStatus uint8

const (
	ReadHit         ReadStatus = iota // the item may be formatted, and counts if Confirm then says so
	ReadMiss                          // final
	ReadWait                          // the key is being updated: Submit an OpGet, which waits in its place
	ReadUnavailable                   // this replica cannot be sure of what it holds: Reason says why
)

// Ticket is the moment that a read saw.
type Ticket struct {
	items *table.Lane
	seq   table.Ticket
}

// readTries bounds the attempts of a read that writers disturb before it takes the lane's lock.
const readTries = 4

// View finds a key without taking a lock. On ReadHit, it is the item's header, and AppendValue gives the value; both
// may be torn, and count only if Confirm says so afterwards.
func (n *Node) View(hash uint64, key []byte, now uint32, it *table.Item) (Ticket, ReadStatus) {
	if !n.ready.Load() {
		return Ticket{}, ReadUnavailable
	}
	nl := &n.lanes[laneOf(hash)]
	for try := 0; try < readTries; try++ {
		if nl.slow.Load() {
			break
		}
		seq, found := nl.items.View(hash, key, it)
		if !found {
			if nl.slow.Load() {
				break // a flush has begun since: the key may be valid elsewhere, while it is not here
			}
			if nl.items.Confirm(seq) {
				return Ticket{}, ReadMiss
			}
			continue
		}
		if it.State&(table.Invalid|table.Tombstone) != 0 || it.TS.Write <= nl.floor.Load() || it.Expired(now) {
			if nl.items.Confirm(seq) {
				return nl.notAHit(it)
			}
			continue
		}
		return Ticket{items: nl.items, seq: seq}, ReadHit
	}
	return Ticket{}, ReadWait
}

// notAHit decides on an item that is stored, but perhaps not to be read.
func (nl *nodeLane) notAHit(it *table.Item) (Ticket, ReadStatus) {
	if it.State&table.Invalid != 0 || it.TS.Write <= nl.floor.Load() {
		return Ticket{}, ReadWait
	}
	return Ticket{}, ReadMiss // a tombstone, or expired
}

// AppendValue appends the value of an item that View has found.
func (n *Node) AppendValue(dst []byte, hash uint64, it *table.Item) []byte {
	return n.lanes[laneOf(hash)].items.AppendValue(dst, it)
}

// Confirm reports whether everything read since View is of one moment.
func (n *Node) Confirm(t Ticket) bool { return t.items.Confirm(t.seq) }
