package server

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"hermesd/replication"
	"hermesd/table"
	"hermesd/textproto"
)

const (
	// inputBytes is how much a pass reads from a socket at a time, beyond what netpoll has read. A request that
	// is larger is read into memory of the connection's own.
	inputBytes = 64 << 10
	// outputBytes is how much output a pass gathers before it writes. Output that is larger was made by one
	// large value.
	outputBytes = 128 << 10
	// keptOutputBytes bounds what a worker's output buffer may have grown to by large values, to be kept.
	keptOutputBytes = 1 << 20
)

// worker is what one pass of work needs: buffers, and a shard of the counters. A pass has one to itself from
// Server.worker to Server.release. There is one for each thread, which its poller finds free nearly always, and spare ones
// for passes on other goroutines.
type worker struct {
	busy  sync.Mutex // held by the pass that has the worker
	spare bool       // belongs in Server.spareWorkers when not busy

	now       uint32 // Unix seconds; read once for each pass
	serves    bool   // the replica has its lease, as far as the input being run is concerned
	submitted bool   // an operation is under way that the pass has begun: the Store is to be flushed
	written   int    // bytes written in this pass
	in        []byte // inputBytes long
	out       []byte // replies of this pass, not yet written
	req       textproto.Request
	item      table.Item
	op        *replication.Op // the next to be submitted

	dirty uint64              // which of counts are not 0
	count [numCounters]uint64 // of this pass

	shared [numCounters]atomic.Uint64 // of all passes: written at the end of each, read by stats
	_      [64]byte                   // what follows in memory is somebody else's
}

// counter names one of memcached's counters.
type counter uint8

const (
	getHits counter = iota
	getMisses
	getExpired
	cmdSet
	cmdFlush
	touchHits
	touchMisses
	deleteHits
	deleteMisses
	incrHits
	incrMisses
	decrHits
	decrMisses
	casHits
	casMisses
	casBadval
	storeTooLarge
	storeNoMemory
	totalItems
	bytesRead
	bytesWritten
	connYields
	unavailable
	waited // operations that could not be answered in the pass that read them
	passes
	reads  // system calls that read from clients, netpoll's included
	writes // system calls that write to clients, keepers' apart
	numCounters
)

// add counts n of c.
func (w *worker) add(c counter, n uint64) {
	w.count[c] += n
	w.dirty |= 1 << c
}

// fold makes what the pass has counted visible to stats. One atomic operation for each counter that moved.
func (w *worker) fold() {
	for d := w.dirty; d != 0; d &= d - 1 {
		c := bits.TrailingZeros64(d)
		w.shared[c].Add(w.count[c])
		w.count[c] = 0
	}
	w.dirty = 0
}

// worker takes a worker for a pass. hint is the thread that the caller thinks it is.
func (s *Server) worker(hint int) *worker {
	w := s.workers[hint]
	if !w.busy.TryLock() {
		w = s.spareWorker()
	}
	w.begin()
	return w
}

// spareWorker takes a worker that belongs to no thread. There are never more than passes at one time.
func (s *Server) spareWorker() *worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	var w *worker
	if n := len(s.spareWorkers); n > 0 {
		w = s.spareWorkers[n-1]
		s.spareWorkers = s.spareWorkers[:n-1]
	} else {
		w = s.newWorker()
		w.spare = true
		s.allWorkers = append(s.allWorkers, w)
	}
	w.busy.Lock()
	return w
}

func (s *Server) newWorker() *worker {
	return &worker{
		in:  make([]byte, inputBytes),
		out: make([]byte, 0, 8<<10),
		op:  s.store.NewOp(),
	}
}

// release ends the pass.
func (s *Server) release(w *worker) {
	w.fold()
	if cap(w.out) > keptOutputBytes {
		w.out = nil
	}
	w.out = w.out[:0]
	w.busy.Unlock()
	if w.spare {
		s.mu.Lock()
		s.spareWorkers = append(s.spareWorkers, w)
		s.mu.Unlock()
	}
}

// sums adds up the shards.
func (s *Server) sums() (total [numCounters]uint64) {
	s.mu.Lock()
	all := s.allWorkers
	s.mu.Unlock()
	for _, w := range all {
		for c := range total {
			total[c] += w.shared[c].Load()
		}
	}
	return total
}
