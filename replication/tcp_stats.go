package replication

import (
	"math/bits"
	"strconv"
	"sync/atomic"
)

// tcpStats are the counters of one peer, over all channels with it.
type tcpStats struct {
	bytesSent        atomic.Uint64
	messagesSent     atomic.Uint64
	batchesSent      atomic.Uint64 // frames
	writeCalls       atomic.Uint64 // write(2), those that took nothing included
	bytesReceived    atomic.Uint64
	messagesReceived atomic.Uint64
	batchesReceived  atomic.Uint64
	readCalls        atomic.Uint64 // read(2), those that found nothing included
	connects         atomic.Uint64 // channels set up; all but the first are reconnects
	dropped          atomic.Uint64 // messages for a member that was not up
	overflows        atomic.Uint64 // channels broken because OutLimit was reached
}

// each calls f with every counter by name.
func (s *tcpStats) each(f func(name string, value uint64)) {
	f("bytes_sent", s.bytesSent.Load())
	f("messages_sent", s.messagesSent.Load())
	f("batches_sent", s.batchesSent.Load())
	f("write_calls", s.writeCalls.Load())
	f("bytes_received", s.bytesReceived.Load())
	f("messages_received", s.messagesReceived.Load())
	f("batches_received", s.batchesReceived.Load())
	f("read_calls", s.readCalls.Load())
	f("connects", s.connects.Load())
	f("dropped", s.dropped.Load())
	f("overflows", s.overflows.Load())
}

// Stats implements Transport: totals as transport_NAME, of all that have been peers, then peer:NUMBER:NAME for each member that is listed, in the manner of memcached's
// items:CLASS:NAME. peer:N:up is 1 while there is a channel.
func (t *TCP) Stats(f func(name string, value uint64)) {
	var names []string
	totals := make(map[string]uint64)
	for i := range t.peers {
		if p := t.peers[i].Load(); p != nil {
			p.stats.each(func(name string, value uint64) {
				if _, ok := totals[name]; !ok {
					names = append(names, name)
				}
				totals[name] += value
			})
		}
	}
	for _, name := range names {
		f("transport_"+name, totals[name])
	}
	f("transport_refused", t.refused.Load())
	for number := range t.peers {
		p := t.peers[number].Load()
		if p == nil || !t.isListed(p) {
			continue
		}
		prefix := "peer:" + strconv.Itoa(number) + ":"
		up := uint64(0)
		if p.channel.Load() != nil {
			up = 1
		}
		f(prefix+"up", up)
		p.stats.each(func(name string, value uint64) { f(prefix+name, value) })
	}
}

func (t *TCP) isListed(p *tcpPeer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return p.listing != nil
}

// firstMember is the least member number of a set that is not empty.
func firstMember(set uint64) uint8 { return uint8(bits.TrailingZeros64(set)) }
