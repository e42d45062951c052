package replication

import "errors"

// simLink is one life of the connection between two replicas, under the contract of Handler: reliable, and ordered per lane, as long as it lives;
// each end learns of its beginning and its end in its own time; and the next life begins when both ends of this one have
// ended, so that nothing of it can still be delivered.
type simLink struct {
	members [2]*simReplica // the lower index first
	ends    [2]simEnd
	broken  bool
	delay   [2]uint64      // steps: mean time that messages take to the end
	early   [2][]simPacket // came to an end that is not up yet
	stalled [2][]simPacket // wait until the end has entered the view that the first of them is of
	void    [2]bool        // what is sent to the end is lost
	last    [2][64]uint64  // by lane: step at which the last message comes to the end
}

type simEnd uint8

const (
	simWaiting simEnd = iota // not up yet
	simUp
	simClosed
)

// simPacket is a message as it is on the wire.
type simPacket struct {
	from  *simReplica
	bytes []byte
}

// side is the replica's index among the link's ends.
func (l *simLink) side(r *simReplica) int {
	if l.members[0] == r {
		return 0
	}
	return 1
}

func (s *sim) link(a, b int) *simLink { return s.links[[2]int{min(a, b), max(a, b)}] }

// connect begins a new life of the connection between two replicas.
func (s *sim) connect(a, b int) {
	l := &simLink{members: [2]*simReplica{s.replicas[min(a, b)], s.replicas[max(a, b)]}}
	s.links[[2]int{min(a, b), max(a, b)}] = l
	for i, r := range l.members {
		l.delay[i] = s.cfg.delay
		if s.cfg.uneven {
			slowest := uint64(20)
			if s.cfg.dynamic && s.cfg.nodes { // a lane after the other is asked for over it
				slowest = 8
			}
			l.delay[i] *= pick(s.random, 1, 1, 5, slowest)
		}
		s.after(s.around(s.cfg.delay), r.index, func() { s.up(l, i) })
	}
}

// up is when an end learns that the connection is there.
func (s *sim) up(l *simLink, end int) {
	if l.ends[end] != simWaiting {
		return
	}
	r, peer := l.members[end], l.members[1-end]
	if s.cfg.dynamic && (r.dead || !r.view.Has(peer.self)) {
		s.cut(l)
		return
	}
	l.ends[end] = simUp
	delete(r.downSince, peer.self.Number)
	for _, v := range r.lanes {
		for _, op := range v.lane.flight.slots {
			s.counts.resent += b2i(op != nil && op.acked&bit(peer.self.Number) == 0)
		}
	}
	s.mix(1, uint64(r.index), uint64(peer.index))
	s.say("%s: connected with %s", r.name(), peer.name())
	if err := r.drive.PeerUp(peer.self); err != nil {
		s.fail("%s refuses %s: %v", r.name(), peer.name(), err)
	}
	s.acted(r, -1, "")
	early := l.early[end]
	l.early[end] = nil
	for _, p := range early {
		s.take(l, end, p)
	}
}

// cut breaks the connection. What is under way can still come to an end that has not noticed; what is sent from here on is lost.
func (s *sim) cut(l *simLink) { s.cutWithin(l, s.cfg.delay*2, true, true) }

// cutWithin is cut for one direction, or both, and with a time in which the ends notice. void says to which ends nothing comes any more.
func (s *sim) cutWithin(l *simLink, mean uint64, first, second bool) {
	l.void[0], l.void[1] = l.void[0] || first, l.void[1] || second
	if l.broken {
		return
	}
	l.broken = true
	s.counts.breaks++
	for i, r := range l.members {
		s.after(s.around(mean), r.index, func() { s.down(l, i) })
	}
}

// down is when an end learns that the connection is gone.
func (s *sim) down(l *simLink, end int) {
	r, peer := l.members[end], l.members[1-end]
	was := l.ends[end]
	if was == simClosed {
		return
	}
	s.drop(l, end)
	s.mix(2, uint64(r.index), uint64(peer.index))
	s.say("%s: disconnected from %s", r.name(), peer.name())
	if _, known := r.downSince[peer.self.Number]; !known && r.view.Has(peer.self) {
		r.downSince[peer.self.Number] = s.local(r.index)
	}
	if was == simUp {
		r.drive.PeerDown(peer.self, errSimCut)
		s.acted(r, -1, "")
	}
	if l.ends[1-end] == simClosed && !s.cfg.dynamic {
		s.after(s.around(s.cfg.delay*2), -1, func() { s.connect(r.index, peer.index) })
	}
}

// drop closes an end, and loses what waits there.
func (s *sim) drop(l *simLink, end int) {
	l.ends[end] = simClosed
	s.flying -= len(l.early[end]) + len(l.stalled[end])
	l.early[end], l.stalled[end] = nil, nil
}

var errSimCut = errors.New("cut by the simulation")

// connected reports whether all connections are up at both ends.
func (s *sim) connected() bool {
	for i, r := range s.replicas {
		for j := range i {
			if r.dead || s.replicas[j].dead {
				continue
			}
			if l := s.link(j, i); l == nil || l.broken || l.ends != [2]simEnd{simUp, simUp} {
				return false
			}
		}
	}
	return true
}

// transmit puts what a replica has sent on the wire.
func (s *sim) transmit(r *simReplica, to int, m *Message) {
	if s.hooks.send == nil {
		s.post(r, to, m)
		return
	}
	for _, m := range s.hooks.send(s, r, to, copyMessage(m)) {
		s.post(r, to, m)
	}
}

func (s *sim) post(r *simReplica, to int, m *Message) {
	l := s.link(r.index, to)
	if l == nil || l.members[l.side(r)] != r || l.ends[l.side(r)] != simUp {
		return // as a Transport does with messages for a member that is not up
	}
	end := 1 - l.side(r)
	if l.void[end] {
		return
	}
	p := simPacket{r, AppendMessage(nil, m)}
	delay := 1 + s.around(l.delay[end])
	if s.chance(s.cfg.tail) {
		delay *= 10
	}
	at := max(s.now+delay, l.last[end][m.Lane])
	if !s.hooks.unordered {
		l.last[end][m.Lane] = at
	}
	s.flying++
	s.at(at, to, func() { s.arrive(l, end, p) })
}

// arrive is when a message has come to an end of a connection.
func (s *sim) arrive(l *simLink, end int, p simPacket) {
	r := l.members[end]
	switch l.ends[end] {
	case simWaiting:
		l.early[end] = append(l.early[end], p)
		s.counts.early++
	case simUp:
		s.take(l, end, p)
	default:
		if s.hooks.lateDelivery {
			s.deliverLate(l, end, p)
			return
		}
		s.flying--
		s.counts.lost++
		s.say("%s: a message of %s is lost", r.name(), p.from.name())
	}
}

// take hands over what has come to an end that is up, unless it is of a view that the replica has yet to enter: that and all that follows it waits.
func (s *sim) take(l *simLink, end int, p simPacket) {
	r := l.members[end]
	if l.ends[end] != simUp { // what came before has closed it
		s.flying--
		return
	}
	if !s.cfg.dynamic {
		s.receive(r, p)
		return
	}
	var m Message
	_, err := DecodeMessage(p.bytes, &m)
	if newer := err == nil && m.Epoch > r.view.Epoch; newer && s.hooks.dropNewer && s.cfg.nodes {
		s.flying--
		return
	}
	if err == nil && (m.Epoch > r.view.Epoch && !s.hooks.dropNewer || len(l.stalled[end]) > 0) {
		l.stalled[end] = append(l.stalled[end], p)
		s.counts.stalled++
		return
	}
	s.receive(r, p)
}

// unstall hands over what has waited for the view that the end has now entered.
func (s *sim) unstall(l *simLink, end int) {
	waiting := l.stalled[end]
	l.stalled[end] = nil
	for _, p := range waiting {
		s.take(l, end, p)
	}
}

// deliverLate is what the contract excludes: a message comes after the channel that it was sent on has been replaced.
func (s *sim) deliverLate(l *simLink, end int, p simPacket) {
	r := l.members[end]
	switch now := s.link(r.index, p.from.index); {
	case now == l || now.ends[end] == simClosed:
		s.after(1, r.index, func() { s.deliverLate(l, end, p) })
	case now.ends[end] == simWaiting:
		now.early[end] = append(now.early[end], p)
	default:
		s.receive(r, p)
	}
}

// receive hands a message over. Its buffer is spoilt afterwards, since it is the receiver's only during the call.
func (s *sim) receive(r *simReplica, p simPacket) {
	s.flying--
	var m Message
	if n, err := DecodeMessage(p.bytes, &m); err != nil || n != len(p.bytes) {
		s.fail("%s sends what cannot be decoded: %d of %d bytes, %v", p.from.name(), n, len(p.bytes), err)
		return
	}
	m.From = p.from.self
	s.counts.received[m.Kind]++
	s.counts.message(r, &m)
	s.mix(3, uint64(r.index), uint64(p.from.index))
	s.mixBytes(p.bytes)
	if s.trace != nil {
		s.say("%s < %s %s%s", r.name(), p.from.name(), s.laneName(m.Lane), showMessage(&m))
	}
	lane, key := m.Lane, string(m.Key)
	if s.hooks.receive == nil || !s.hooks.receive(s, r, &m) {
		r.drive.Receive(&m)
	}
	r.drive.EndBatch(p.from.self)
	for i := range p.bytes {
		p.bytes[i] = 0xDB
	}
	s.acted(r, int(lane), key)
}
