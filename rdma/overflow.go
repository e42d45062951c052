package rdma

import "hermesd/replication"

// overflow holds what the ring has no room for, in order. It lies in ordinary memory, in pieces that are given back as they are used up.
type overflow struct {
	frames [][]byte // messages one behind the other
	taken  int      // bytes of the first
	bytes  int
}

// add appends m, for which bound bytes are enough.
func (o *overflow) add(m *replication.Message, bound int) {
	last := len(o.frames) - 1
	if last < 0 || bound > frameTarget || cap(o.frames[last])-len(o.frames[last]) < bound {
		o.frames = append(o.frames, make([]byte, 0, max(bound, frameTarget)))
		last++
	}
	f := o.frames[last]
	before := len(f)
	f = replication.AppendMessage(f, m)
	o.frames[last] = f
	o.bytes += len(f) - before
}

// first is what is to be sent next.
func (o *overflow) first() []byte { return o.frames[0][o.taken:] }

// take gives up the first n bytes of first.
func (o *overflow) take(n int) {
	o.taken += n
	o.bytes -= n
	if o.taken == len(o.frames[0]) {
		o.frames[0], o.taken = nil, 0
		o.frames = o.frames[1:]
		if len(o.frames) == 0 {
			o.frames = nil
		}
	}
}
