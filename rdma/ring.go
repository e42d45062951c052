package rdma

// The arithmetic of a ring to send from and of the one that it is written to. It calls no verbs and touches no bytes.
//
// Positions count the bytes of a ring's whole life, so that one that is less is earlier; modulo the size they are offsets. Frames begin at
// multiples of frameAlign and do not go round the ring's end: one that does not fit before it begins at the ring's start.
const (
	frameAlign = 64 // bytes: a cache line, so that no two frames' bytes travel to memory in one
	frameHead  = 8  // length of the payload 4 bytes, CRC-32C of payload and immediate value 4
)

func alignUp(n uint64) uint64 { return (n + frameAlign - 1) &^ (frameAlign - 1) }

// An immediate value: kind 2 bits, wrapped 1, more 1, 4 unused, frames of the other direction used up since the channel began modulo 2^24.
const (
	immData   = 0 << 30
	immCredit = 1 << 30 // no frame: only the count
	immProbe  = 2 << 30 // no frame: bytes at the ring's start, before the first
	immKinds  = 3 << 30

	immWrapped = 1 << 29 // the frame begins at the ring's start
	immMore    = 1 << 28 // the frame is a part of something that the next goes on with
	immUnused  = 15 << 24
	immCount   = 1<<24 - 1
)

// sendRing says where frames may be written, which requests may be posted, and when they are signalled. Of each frame it knows where it ends, so that
// a count of frames is all that the peer has to say about what it has used up.
//
// Bytes may be written to again when the peer has used up their frame and the request that sent it is known to have completed: the first is what
// the memory at the peer needs, the second what verbs ask for the memory here.
type sendRing struct {
	size  uint64
	depth uint64 // frames that the peer has receive requests for
	slots uint64 // requests that the queue holds

	tail     uint64   // where the last frame ends
	ends     []uint64 // by frame modulo depth
	frames   uint64   // made
	used     uint64   // of them used up by the peer
	usedTo   uint64   // position
	wrEnds   []uint64 // by request modulo slots: the position up to which it and those before it have sent
	posted   uint64   // requests
	done     uint64   // of them known to have completed
	doneTo   uint64   // position
	sentTo   uint64   // position up to which frames were posted
	ready    uint64   // frames made and not posted
	unsigned uint64   // requests since the last that was signalled
	signedTo uint64   // sentTo when it was
}

func newSendRing(size, depth int) *sendRing {
	slots := uint64(depth + reservedSends)
	return &sendRing{size: uint64(size), depth: uint64(depth), slots: slots, ends: make([]uint64, depth), wrEnds: make([]uint64, slots)}
}

// frameMax is the most bytes of a frame, head included. With a quarter of the ring, one fits whatever the peer has not yet said that it has
// used up (less than a quarter), and what the end of the ring wastes (less than another).
func (r *sendRing) frameMax() int { return int(min(r.size/4, 256<<10)) }

// free is the position up to which may be written.
func (r *sendRing) free() uint64 { return min(r.usedTo, r.doneTo) + r.size }

// place says where a frame of up to bound bytes may begin, and how many bytes it may have there at most.
func (r *sendRing) place(bound int) (at uint64, room int, ok bool) {
	if r.frames-r.used >= r.depth || r.posted-r.done+r.ready >= r.slots-reservedSends {
		return 0, 0, false
	}
	at = r.tail
	if left := r.size - at%r.size; left < uint64(bound) {
		at += left
	}
	end := min(r.free(), at-at%r.size+r.size)
	if end < at+uint64(bound) {
		return 0, 0, false
	}
	return at, int(end - at), true
}

// add takes note of a frame of n bytes at the position that place said.
func (r *sendRing) add(at uint64, n int) (wrapped bool) {
	wrapped = at != r.tail
	r.tail = alignUp(at + uint64(n))
	r.ends[r.frames%r.depth] = r.tail
	r.frames++
	r.ready++
	return wrapped
}

// mayPost reports whether the queue has a slot for another request.
func (r *sendRing) mayPost() bool { return r.posted-r.done < r.slots }

// post takes note of a request that is about to be posted, and says whether it is to be signalled: one in a quarter of the queue, or of the ring, so
// that what is waited for is never behind one that was not. frame: it sends the next of the ready frames; sign: in any case.
func (r *sendRing) post(frame, sign bool) (signalled bool) {
	if frame {
		r.sentTo = r.ends[(r.frames-r.ready)%r.depth]
		r.ready--
	}
	r.wrEnds[r.posted%r.slots] = r.sentTo
	r.posted++
	r.unsigned++
	if sign || r.unsigned >= r.slots/4 || r.sentTo-r.signedTo >= r.size/4 {
		r.unsigned, r.signedTo = 0, r.sentTo
		return true
	}
	return false
}

// completed takes note of the completion of request number id, and so of all before it; false: there is no such request.
func (r *sendRing) completed(id uint64) bool {
	if id < r.done || id >= r.posted {
		return false
	}
	r.done, r.doneTo = id+1, r.wrEnds[id%r.slots]
	return true
}

// credit takes note of the peer's count of frames used up; false: it cannot have used up so many.
//
// The peer says so with frames of its own, or when a quarter of them or of the ring is unsaid. As long as we have not taken its words we send it no more than the
// frames and the bytes of one ring, so no more than four words for either are ever under way, for which reservedReceives are kept.
func (r *sendRing) credit(count uint32) bool {
	more := uint64(count-uint32(r.used)) & immCount
	if more > r.frames-r.ready-r.used {
		return false
	}
	if more > 0 {
		r.used += more
		r.usedTo = r.ends[(r.used-1)%r.depth]
	}
	return true
}

// recvRing says where the next frame lies, and when the peer is to be told what was used up.
type recvRing struct {
	size   uint64
	depth  uint64
	next   uint64 // position of the next frame
	frames uint64 // come

	used, usedTo uint64 // handed over
	said, saidTo uint64 // of that, the peer has been told
}

func newRecvRing(size, depth int) *recvRing {
	return &recvRing{size: uint64(size), depth: uint64(depth)}
}

// arrive says where a frame of n bytes lies that has come; false: there can be none such.
func (r *recvRing) arrive(n uint32, wrapped bool) (offset int, end uint64, ok bool) {
	at := r.next
	if wrapped {
		at = (at + r.size - 1) / r.size * r.size
	}
	end = alignUp(at + uint64(n))
	if n < frameHead || at%r.size+uint64(n) > r.size || end-r.usedTo > r.size || r.frames-r.used >= r.depth {
		return 0, 0, false
	}
	r.next = end
	r.frames++
	return int(at % r.size), end, true
}

// use takes note that the next frame, which ends at a position, was handed over.
func (r *recvRing) use(end uint64) { r.used, r.usedTo = r.used+1, end }

// owes reports whether the peer should be told without waiting for a frame to do it.
func (r *recvRing) owes() bool { return r.used-r.said >= r.depth/4 || r.usedTo-r.saidTo >= r.size/4 }

// say returns what the peer is told now.
func (r *recvRing) say() uint32 {
	r.said, r.saidTo = r.used, r.usedTo
	return uint32(r.used) & immCount
}
