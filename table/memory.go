package table

import (
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"
)

// memory is the mapping that everything of the table lies in. Places in it are offsets in bytes from its
// start, never pointers, so that they fit into index entries and the garbage collector has nothing to see.
type memory struct {
	base unsafe.Pointer
	size uint64 // bytes
}

func (m *memory) word(at uint64) *uint64 { return (*uint64)(unsafe.Add(m.base, at)) }

func (m *memory) bytes(at, n uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(m.base, at)), n)
}

// copyWithin copies n bytes from one place to another that does not overlap it.
func (m *memory) copyWithin(to, from, n uint64) { copy(m.bytes(to, n), m.bytes(from, n)) }

// segmentUse says what a segment holds.
type segmentUse uint8

const (
	useFree segmentUse = iota
	useIndex
	useSmall // log of the small queue: new items
	useMain  // log of the main queue: items that were used, or moved
)

// segment is what is known of one of the equal parts that the mapping is cut into. It belongs to the lane
// that took it from the pool (its lock guards it), or to the pool while it is free.
type segment struct {
	prev, next   uint32 // neighbours in the queue, the free list or the overflow pages; 0: none
	used         uint32 // bytes of records, dead ones too
	live         uint32 // bytes of records that are not dead
	leastExptime uint32 // no live record expires before this; never: noExptime
	use          segmentUse
	open         bool // records are being added; not in a queue yet
	pinned       bool // Collect is walking it: not given back before that ends, though nothing lives
	waiting      bool // Collect was here; what still lives could not be moved, or its delete is under way
}

const noExptime = ^uint32(0)

// pool hands out segments to all lanes. One lock is enough: a segment is taken once for many items.
type pool struct {
	segmentBytes uint64
	segmentShift uint
	reserve      int // segments that only reclaiming (and tombstones) may take
	stepRecords  int // stepRecords, but for tests of what comes between two steps in small segments

	segments []segment
	free     atomic.Int64 // segments; written with mu held

	mu    sync.Mutex
	list  uint32 // given back: the latest first, for it is still in the processor's cache
	fresh uint32 // from here on segments have never been used, and cost no memory yet but what lies ahead
	ahead ahead
}

const (
	minSegmentBytes = 4 << 10
	maxSegmentBytes = 1 << 20
	segmentsWanted  = 4096 // 64 to 128 for each lane
)

// segmentBytesFor chooses a segment size for a table of so many bytes. Each lane has up to three segments
// that are not full (two open ones and its newest index page), so there should be many segments; small ones cut
// large values into more pieces, so there should not be too many.
func segmentBytesFor(memoryBytes uint64) uint64 {
	size := uint64(maxSegmentBytes)
	for size > minSegmentBytes && size > memoryBytes/segmentsWanted {
		size /= 2
	}
	return size
}

func (p *pool) init(memoryBytes, segmentBytes uint64) error {
	if segmentBytes == 0 {
		segmentBytes = segmentBytesFor(memoryBytes)
	}
	if segmentBytes < minSegmentBytes || segmentBytes > maxSegmentBytes || segmentBytes&(segmentBytes-1) != 0 {
		return fmt.Errorf("table: segment size %d: give a power of two from %d to %d", segmentBytes, minSegmentBytes, maxSegmentBytes)
	}
	p.segmentBytes = segmentBytes
	for 1<<p.segmentShift < segmentBytes {
		p.segmentShift++
	}
	n := int(memoryBytes >> p.segmentShift)
	if n < minSegments {
		return fmt.Errorf("table: %d bytes are %d segments of %d bytes: give at least %d", memoryBytes, n, segmentBytes, minSegments*segmentBytes)
	}
	p.segments = make([]segment, n)
	p.stepRecords = stepRecords
	p.reserve = max(4, min(n/128, Lanes))
	p.fresh = 1 // segment 0 is never used: 0 as a number or an offset means none
	p.free.Store(int64(n - 1))
	return nil
}

// take removes n segments from the pool, or none at all if it would have to go below the reserve and may
// not. They come as a list linked by next.
func (p *pool) take(n int, use segmentUse, intoReserve bool) (first uint32, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	left := int(p.free.Load()) - n
	if left < 0 || left < p.reserve && !intoReserve {
		return 0, false
	}
	p.free.Store(int64(left))
	for ; n > 0; n-- {
		id := p.list
		if id != 0 {
			p.list = p.segments[id].next
		} else {
			id = p.fresh
			p.fresh++
		}
		p.segments[id] = segment{use: use, leastExptime: noExptime, next: first}
		first = id
	}
	p.ahead.passed(p.fresh)
	return first, true
}

// give puts a segment back.
func (p *pool) give(id uint32) {
	p.mu.Lock()
	p.segments[id] = segment{next: p.list}
	p.list = id
	p.free.Add(1)
	p.mu.Unlock()
}

func (p *pool) offset(id uint32) uint64 { return uint64(id) << p.segmentShift }

func (p *pool) segmentOf(at uint64) *segment { return &p.segments[at>>p.segmentShift] }
