package replication

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io"
	"sync"
	"unicode/utf8"

	"hermesd/replication/views"
	"hermesd/table"
)

// Tracer is told of every step of the protocol that a replica takes, for trace validation: tla/TraceHermes.tla decides whether the steps of a
// group are an execution of tla/Hermes.tla. Trace is called with the lane's lock held, after the step; s and what it refers to are good only
// during the call.
type Tracer interface{ Trace(s *TraceStep) }

// TraceStep is one step of one replica on one key, or (without a key) on a whole lane. The steps of a lane are told of in their order.
type TraceStep struct {
	Time        int64  `json:"time"` // ns of views.Now, or the simulation's; set by the Tracer
	Replica     uint8  `json:"replica"`
	Incarnation uint64 `json:"incarnation"`
	Lane        uint8  `json:"lane"`
	Epoch       uint64 `json:"epoch"` // of the view that the replica is in
	Step        Step   `json:"step"`
	Key         string `json:"key,omitempty"` // see traceKey

	From     uint8      `json:"from,omitempty"` // who sent the message that was received
	TS       *TraceTS   `json:"ts,omitempty"`   // of the update, or of the message
	Newer    *TraceTS   `json:"newer,omitempty"`
	Finisher uint8      `json:"finisher,omitempty"` // NACK: of Newer
	Bits     uint8      `json:"bits,omitempty"`     // of the message received
	Ended    bool       `json:"ended,omitempty"`    // ACK: it was the last one
	RMW      bool       `json:"rmw,omitempty"`      // start: it is a read-modify-write, whatever its time stamp says
	Members  []int      `json:"members,omitempty"`  // enter: numbers
	State    TraceState `json:"state"`              // of the key, afterwards
	// Closed says that no channel is open: nothing is sent, whatever there is to say.
	Closed bool            `json:"closed,omitempty"`
	Sent   []*TraceMessage `json:"sent,omitempty"` // by this step
}

// Step names a step. Messages received have the names of their kinds.
type Step string

const (
	StepStart    Step = "start"    // an update has been started
	StepINV      Step = "INV"      // an INV was received, and applied or not
	StepACK      Step = "ACK"      // an acknowledgement was received, perhaps not for the first time
	StepNACK     Step = "NACK"     // an own update, or replay, was refused
	StepVAL      Step = "VAL"      // the key became valid by a VAL
	StepPROBE    Step = "PROBE"    // a PROBE was answered
	StepSTATE    Step = "STATE"    // the key became valid by a STATE
	StepAgain    Step = "again"    // an update in flight was sent again
	StepEnter    Step = "enter"    // a view was entered
	StepComplete Step = "complete" // an update was complete since those whose acknowledgement was missing are gone
	StepAnswer   Step = "answer"   // an update is answered: it is done
	StepReplay   Step = "replay"   // the replay of an update of a member gone was begun
	// Steps of which Hermes.tla knows nothing: a key's trace ends before them.
	StepAlone Step = "alone" // a group of one has stored it
	StepFlush Step = "flush" // everything of the lane was invalidated
	StepEnd   Step = "end"   // the replica has given up what was in flight: it shuts down, or begins anew
)

// TraceTS is a time stamp: version, writer, step, stepper.
type TraceTS [4]uint64

// TraceState is what a replica has of a key: the zero TS is that of an absent key.
type TraceState struct {
	TS        TraceTS `json:"ts"`
	Valid     bool    `json:"valid"`
	Finisher  uint8   `json:"finisher,omitempty"`  // of what is not valid
	Tombstone bool    `json:"tombstone,omitempty"` // also of an update on an absent key
}

// TraceMessage is a message sent.
type TraceMessage struct {
	To       uint8    `json:"to"`
	Kind     string   `json:"kind"`
	TS       TraceTS  `json:"ts"`
	Newer    *TraceTS `json:"newer,omitempty"`
	Finisher uint8    `json:"finisher,omitempty"`
	Bits     uint8    `json:"bits,omitempty"`
}

func traceTS(ts table.Timestamp) TraceTS {
	return TraceTS{ts.Write >> 8, ts.Write & 0xff, ts.Step >> 8, ts.Step & 0xff}
}

func traceNewer(m *Message) *TraceTS {
	if m.Kind != NACK && m.Kind != STATE {
		return nil
	}
	ts := traceTS(m.Newer)
	return &ts
}

// stepLog is what a traced lane has more than others.
type stepLog struct {
	tracer Tracer
	sent   []*TraceMessage // since the last step
	item   table.Item
}

// TraceTo has the lane tell of its steps from now on. It comes before all other calls.
func (l *Lane) TraceTo(t Tracer) {
	if t != nil {
		l.steps = &stepLog{tracer: t}
	}
}

// noteSent notes a message that has been sent, for the step that has sent it. Those between replicas that are no part of what the specification is
// of (clocks, catching up) are left out; so are questions, of which it knows only the answers.
func (g *stepLog) noteSent(to uint8, m *Message) {
	switch m.Kind {
	case INV, ACK, NACK, VAL, STATE:
		g.sent = append(g.sent, &TraceMessage{To: to, Kind: m.Kind.String(), TS: traceTS(m.TS), Newer: traceNewer(m), Finisher: m.Finisher, Bits: m.Bits})
	}
}

// traceReceived tells of a message that has been received, and of what has come of it.
func (l *Lane) traceReceived(step Step, hash uint64, key []byte, m *Message) {
	if l.steps == nil {
		return
	}
	ts := traceTS(m.TS)
	l.traceStep(hash, key, &TraceStep{Step: step, From: m.From.Number, TS: &ts, Newer: traceNewer(m), Finisher: m.Finisher, Bits: m.Bits})
}

// traceACK tells of an acknowledgement. ended: it was the last one.
func (l *Lane) traceACK(op *Op, from uint8, ended bool) {
	if l.steps == nil {
		return
	}
	ts := traceTS(op.ts)
	s := &TraceStep{Step: StepACK, From: from, TS: &ts, Ended: ended}
	if from == 0 {
		s.Step = StepComplete
	}
	l.traceStep(op.Hash, op.Key, s)
}

// traceUpdate tells of a step that an update of this member's, or a replay, has taken.
func (l *Lane) traceUpdate(step Step, op *Op) {
	if l.steps == nil {
		return
	}
	ts := traceTS(op.ts)
	s := &TraceStep{Step: step, TS: &ts, RMW: step == StepStart && op.isRMW()}
	if op.replay {
		s.Bits = BitReplay
	}
	l.traceStep(op.Hash, op.Key, s)
}

// traceLane tells of a step that is of no single key.
func (l *Lane) traceLane(step Step) {
	if l.steps == nil || l.epoch == 0 {
		return
	}
	s := &TraceStep{Step: step}
	if step == StepEnter {
		for number := range l.members {
			if l.members[number].Number != 0 {
				s.Members = append(s.Members, number)
			}
		}
	}
	l.traceStep(0, nil, s)
}

// hexKey begins the text of a key that is not UTF-8, of which JSON would make another one.
const hexKey = "hex "

// traceKey is another text for each key: the key itself where it can be.
func traceKey(key []byte) string {
	if utf8.Valid(key) && !bytes.HasPrefix(key, []byte(hexKey)) {
		return string(key)
	}
	return hexKey + hex.EncodeToString(key)
}

func (l *Lane) traceStep(hash uint64, key []byte, s *TraceStep) {
	g := l.steps
	s.Replica, s.Incarnation, s.Lane, s.Epoch = l.self, l.members[l.self].Incarnation, l.number, l.epoch
	s.Closed = l.open == 0
	if key != nil {
		s.Key = traceKey(key)
		s.State.Valid = true
		if it := &g.item; l.items.Find(hash, key, it) {
			s.State = TraceState{TS: traceTS(it.TS), Valid: it.State&table.Invalid == 0, Tombstone: it.State&(table.Tombstone|table.OnAbsent) != 0}
			if !s.State.Valid {
				s.State.Finisher = it.Finisher
			}
		}
	}
	s.Sent, g.sent = g.sent, nil
	g.tracer.Trace(s)
}

// TraceWriter writes steps as NDJSON, a line for each, at once: what a replica that is killed has told of is not lost.
type TraceWriter struct {
	mu  sync.Mutex
	w   *bufio.Writer
	enc *json.Encoder
	err error
}

// NewTraceWriter returns one that writes to w, which stays the caller's.
func NewTraceWriter(w io.Writer) *TraceWriter {
	b := bufio.NewWriter(w)
	return &TraceWriter{w: b, enc: json.NewEncoder(b)}
}

// Trace implements Tracer. It is safe for concurrent use.
func (t *TraceWriter) Trace(s *TraceStep) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.Time == 0 {
		s.Time = views.Now()
	}
	if t.err == nil {
		t.err = t.enc.Encode(s)
	}
	if t.err == nil {
		t.err = t.w.Flush()
	}
}

// Err is the first error of writing, after which nothing more is written.
func (t *TraceWriter) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}
