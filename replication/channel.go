package replication

import "math/bits"

// PeerUp says that a new channel to a peer of the view takes messages, and that nothing of an earlier one can still arrive. Updates in
// flight that the peer has not acknowledged are sent again before anything else, then the MARK from which clocks count.
func (l *Lane) PeerUp(peer Member) {
	b := bit(peer.Number)
	if l.peers&b == 0 || l.members[peer.Number] != peer {
		return
	}
	l.open |= b
	l.unmarked |= b
	l.sendAgain(peer.Number)
}

// sendAgain sends a peer every update in flight that it has not acknowledged, and the MARK.
func (l *Lane) sendAgain(to uint8) {
	for _, op := range l.flight.slots {
		if op != nil && op.acked&bit(to) == 0 {
			l.inv(op)
			l.send(to)
			if op.Kind != OpFlush {
				l.traceUpdate(StepAgain, op)
			}
		}
	}
	l.out = Message{Kind: MARK}
	l.send(to)
}

// PeerDown says that the channel is gone: what was sent on it and not acknowledged may be lost.
func (l *Lane) PeerDown(peer Member) {
	l.open &^= bit(peer.Number)
	if l.join.streamer == peer {
		l.join.interrupt()
	}
}

func lowest(set uint64) uint8 { return uint8(bits.TrailingZeros64(set)) }
