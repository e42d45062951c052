package replication

import (
	"fmt"

	"hermesd/table"
)

// published is a replica under the rule of the paper: a write takes version + 2, a read-modify-write version + 1, and a
// read-modify-write is acknowledged if its time stamp is not lower. One key, no failures: what the scenario published-rule needs, to show
// why we have another rule.
type published struct {
	self, peers uint8
	ts          table.Timestamp
	value       string
	valid       bool
	flight      map[uint64]*publishedUpdate // by ID
	lastID      uint64

	sent []sent
	done []*Op
}

type publishedUpdate struct {
	op   *Op
	ts   table.Timestamp
	acks uint8
}

func newPublished(i, n int) *published {
	return &published{self: uint8(i + 1), peers: uint8(n - 1), value: "0", valid: true, flight: make(map[uint64]*publishedUpdate)}
}

func (p *published) emitted() ([]sent, []*Op) {
	sent, done := p.sent, p.done
	p.sent, p.done = nil, nil
	return sent, done
}

func (p *published) show([]string) string {
	return fmt.Sprintf("%s: %s %q valid=%v", memberName(p.self), showTS(p.ts), p.value, p.valid)
}

func (p *published) broadcast(m *Message) {
	for to := uint8(1); to <= p.peers+1; to++ {
		if to != p.self {
			p.sent = append(p.sent, sent{to, copyMessage(m)})
		}
	}
}

// submit runs get, set and incr; a read or incr of an invalid key, which would have to wait, is not needed.
func (p *published) submit(q *request, tag int, _ uint64) {
	op := &Op{Tag: uint64(tag), Kind: q.kind, Client: nobody{}}
	version := p.ts.Version()
	switch q.kind {
	case OpGet:
		op.Result = Result{Status: Hit, Value: []byte(p.value)}
		p.done = append(p.done, op)
		return
	case OpSet:
		p.value, op.Result.Status = q.value, Stored
		version += 2
	case OpIncr:
		n, _ := parseNumber([]byte(p.value))
		op.Result = Result{Status: Number, Number: n + q.delta}
		p.value = fmt.Sprint(n + q.delta)
		version++
	}
	p.ts, p.valid = table.Timestamp{Write: version<<8 | uint64(p.self)}, false
	p.lastID++
	p.flight[p.lastID] = &publishedUpdate{op: op, ts: p.ts}
	m := &Message{Kind: INV, ID: p.lastID, TS: p.ts, Key: []byte(q.key), Value: []byte(p.value), From: Member{Number: p.self}}
	if q.kind == OpIncr {
		m.Bits = publishedRMW
	}
	p.broadcast(m)
}

// publishedRMW is a bit of a Message that marks a read-modify-write of the published rule, whose time stamp does not tell.
const publishedRMW = 1 << 7

func (p *published) receive(m *Message) {
	answer := Message{Kind: ACK, ID: m.ID, TS: m.TS, Key: m.Key, From: Member{Number: p.self}}
	switch m.Kind {
	case INV:
		switch lower := m.TS.Less(p.ts); {
		case !lower:
			p.ts, p.value, p.valid = m.TS, string(m.Value), false
		case m.Bits&publishedRMW != 0:
			return // refused: its coordinator would try again
		}
		p.sent = append(p.sent, sent{m.From.Number, &answer})
	case ACK:
		u := p.flight[m.ID]
		if u.acks++; u.acks < p.peers {
			return
		}
		delete(p.flight, m.ID)
		p.done = append(p.done, u.op)
		if p.ts == u.ts {
			p.valid = true
			p.broadcast(&Message{Kind: VAL, TS: u.ts, Key: m.Key, From: Member{Number: p.self}})
		}
	case VAL:
		p.valid = p.valid || p.ts == m.TS
	}
}
