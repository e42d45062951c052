// Package table holds the items of one replica: keys, values and their headers, with an index, in one mapping of memory outside Go's heap, so that
// the collector never looks at them and memcached's -m is a strict bound on all of it.
//
// It stores what it is told and knows nothing of why: no protocol, no clock (callers say what time it is), no goroutine of its own, no decision
// about which item may be given up (it proposes, a Visit decides). Keys and values come from package replication, as slices that are copied; they
// go out as copies, or, for a Visit, in place.
//
// # Parts
//
//	table.go             Table: 64 lanes over one mapping, limits, Hash and LaneOf
//	lane.go              Lane: what can be done with an item (Find, Put, Update, Remove)
//	index.go             a linear-hashing index of cache-line buckets, and the ghosts of evicted items
//	record.go, pieces.go how an item lies in memory; values that are longer than a segment
//	log.go, memory.go    segments, the queues that they are in, the pool that they come from
//	collect.go           making room: S3-FIFO on segments, garbage first
//	sweep.go             giving back expired items that nobody reads
//	read.go              reading without the lane's lock
//	walk.go, clear.go    going through all of a lane in steps; emptying it at once
//
// A Lane is locked by its caller for everything that writes. Reads need no lock: View notes the lane's sequence number, the caller copies
// what it wants, and Confirm says whether the lane has stood still meanwhile (read.go has the argument). docs/table.md has the costs.
package table
