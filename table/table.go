package table

import (
	"errors"
	"fmt"
	"math/bits"
	"unsafe"

	"github.com/dgryski/go-farm"
)

// Lanes is the number of lanes. It is the same in every member of a group, since messages name lanes.
const Lanes = 64

const (
	laneShift = 64 - 6 // the lane is the top 6 bits of the hash

	minMemoryBytes = 1 << 20
	maxMemoryBytes = 1 << 40   // what a location in an index entry can reach
	maxItemBytes   = 1 << 30   // memcached's limit for -I
	minItemBytes   = 1 << 10   // memcached's limit for -I
	minSegments    = 3 * Lanes // an index page and two open log segments each
)

// ErrNoMemory says that an item needs more segments than are free. Nothing has been changed. Make room with Collect
// (of any lane) and try again.
var ErrNoMemory = errors.New("table: no free memory: collect, then try again")

// Hash is the hash of a key by which members and lanes agree where it belongs (farmhash's Hash64).
func Hash(key []byte) uint64 { return farm.Hash64(key) }

// LaneOf is the number of the lane, 0 to Lanes-1, of a key with this hash.
func LaneOf(hash uint64) int { return int(hash >> laneShift) }

// Config says how large a table is.
type Config struct {
	// MemoryBytes bounds items and index together (memcached's -m, which is in megabytes). The table maps so many
	// bytes when it is made and never more; they cost memory as they are first written. 1 MiB to 1 TiB.
	MemoryBytes uint64
	// ItemSizeMax is memcached's -I: the largest item in bytes, as memcached counts (see Fits). 1 KiB to 1 GiB, and
	// at most half of MemoryBytes.
	ItemSizeMax uint32
	// SegmentBytes is the unit in which lanes take and give back memory; a power of two from 4 KiB to 1 MiB. 0:
	// chosen by MemoryBytes, which is right except for tests.
	SegmentBytes int
}

// Table is the items of one member: 64 lanes over one mapping.
type Table struct {
	lanes    [Lanes]Lane
	counting counting
	pool
	memory
	mapping     []byte
	itemSizeMax uint32
}

// New maps the memory of a table, which is empty. Close gives it back.
func New(cfg Config) (*Table, error) {
	if cfg.MemoryBytes < minMemoryBytes || cfg.MemoryBytes > maxMemoryBytes {
		return nil, fmt.Errorf("table: memory of %d bytes: give %d to %d", cfg.MemoryBytes, minMemoryBytes, uint64(maxMemoryBytes))
	}
	if cfg.ItemSizeMax < minItemBytes || cfg.ItemSizeMax > maxItemBytes {
		return nil, fmt.Errorf("table: item size limit of %d bytes: give %d to %d", cfg.ItemSizeMax, minItemBytes, maxItemBytes)
	}
	if uint64(cfg.ItemSizeMax) > cfg.MemoryBytes/2 {
		return nil, fmt.Errorf("table: item size limit of %d bytes is more than half of the memory, %d bytes: lower the one or raise the other", cfg.ItemSizeMax, cfg.MemoryBytes)
	}
	t := &Table{itemSizeMax: cfg.ItemSizeMax}
	if err := t.pool.init(cfg.MemoryBytes, uint64(cfg.SegmentBytes)); err != nil {
		return nil, err
	}
	mem, err := mapMemory(int(cfg.MemoryBytes))
	if err != nil {
		return nil, fmt.Errorf("table: cannot map %d bytes: %w", cfg.MemoryBytes, err)
	}
	t.mapping = mem
	t.memory = memory{base: unsafe.Pointer(unsafe.SliceData(mem)), size: uint64(len(mem))}
	for i := range t.lanes {
		t.lanes[i].init(t)
	}
	t.startAhead()
	return t, nil
}

// Close unmaps the memory. Nobody may use the table, its lanes, or slices into it any more.
func (t *Table) Close() error {
	mem := t.mapping
	if mem == nil {
		return nil
	}
	t.stopAhead()
	t.mapping = nil
	if err := unmapMemory(mem); err != nil {
		return fmt.Errorf("table: cannot unmap %d bytes: %w", len(mem), err)
	}
	return nil
}

// Lane is lane number i, 0 to Lanes-1.
func (t *Table) Lane(i int) *Lane { return &t.lanes[i] }

// SegmentBytes is the unit in which FreeBytes goes up and down.
func (t *Table) SegmentBytes() int { return int(t.segmentBytes) }

// FreeBytes is the memory that Put may still take: free segments, less those kept back for reclaiming.
// It may be called without any lock.
func (t *Table) FreeBytes() uint64 {
	if n := t.free.Load() - int64(t.reserve); n > 0 {
		return uint64(n) << t.segmentShift
	}
	return 0
}

// NeedBytes is how much FreeBytes has to be for a Put of such an item to be sure of success, while nobody
// else takes any.
func (t *Table) NeedBytes(keyBytes, valueBytes int) uint64 {
	// One that is not filled, and two for the index, should it have to grow.
	const most = headerBytes + 3*wordBytes
	n := 3 + (most+uint64(keyBytes)+uint64(valueBytes))/(t.segmentBytes-pieceHeaderBytes)
	return n << t.segmentShift
}

// Fits tells whether an item is small enough for -I, counted as memcached 1.6 does: its own header of 48 bytes, 8 of cas, the key
// and a zero, the value and CR LF, and 4 more if the client's flags are not 0.
func (t *Table) Fits(keyBytes, valueBytes int, flags uint32) bool {
	n := uint64(48+8+keyBytes+1) + uint64(valueBytes) + 2
	if flags != 0 {
		n += 4
	}
	return n <= uint64(t.itemSizeMax)
}

// Fullest is the number of the lane that holds the most memory, the one to reclaim from first: keys are spread evenly over
// the lanes, so lanes of one size treat all items alike. It may be called without any lock.
func (t *Table) Fullest() int {
	lane, _ := t.FullestOf(^uint64(0))
	return lane
}

// FullestOf is Fullest of a set of lanes, bit i for lane i, and how many segments of items that lane holds; -1 if the set is empty.
func (t *Table) FullestOf(lanes uint64) (lane int, segments int64) {
	segments = -1
	for ; lanes != 0; lanes &= lanes - 1 {
		i := bits.TrailingZeros64(lanes)
		if n := t.lanes[i].logSegments.Load(); n > segments {
			lane, segments = i, n
		}
	}
	return lane, segments
}

// A set of lanes is a word: this array cannot be built otherwise.
var _ [64 - Lanes]struct{}
