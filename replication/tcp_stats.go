package replication

import (
	"math/bits"
	"strconv"
	"sync/atomic"
)

// tcpStats are the counters of one peer, over all channels with it.
type tcpStats struct {
	ChannelCounters
	writeCalls atomic.Uint64 // write(2), those that took nothing included
	readCalls  atomic.Uint64 // read(2), those that found nothing included
	connects   atomic.Uint64 // channels set up; all but the first are reconnects
	dropped    atomic.Uint64 // messages for a member that was not up
}

// each calls f with every counter by name.
func (s *tcpStats) each(f func(name string, value uint64)) {
	s.ChannelCounters.each(f)
	f("write_calls", s.writeCalls.Load())
	f("read_calls", s.readCalls.Load())
	f("connects", s.connects.Load())
	f("dropped", s.dropped.Load())
}

// Stats implements Transport: totals as transport_NAME, of all that have been peers, then peer:NUMBER:NAME for each member that is listed, in the manner of memcached's
// items:CLASS:NAME. peer:N:up is 1 while there is a channel.
func (t *TCP) Stats(f func(name string, value uint64)) {
	var names []string
	totals := make(map[string]uint64)
	for i := range t.peers {
		if p := t.peers[i].Load(); p != nil {
			t.eachCounter(p, func(name string, value uint64) {
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
		t.eachCounter(p, func(name string, value uint64) { f(prefix+name, value) })
	}
}

// eachCounter calls f with the counters of a peer, and those of the path.
func (t *TCP) eachCounter(p *tcpPeer, f func(name string, value uint64)) {
	p.stats.each(f)
	if t.cfg.Path != nil {
		t.cfg.Path.Stats(p.number, f)
	}
}

func (t *TCP) isListed(p *tcpPeer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return p.listing != nil
}

// firstMember is the least member number of a set that is not empty.
func firstMember(set uint64) uint8 { return uint8(bits.TrailingZeros64(set)) }
