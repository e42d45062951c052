package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"hermesd/replication"
)

const (
	replicas   = 3 // of the groups whose traces are judged
	maxReplica = 9 // TraceHermes.tla writes time stamps in decimal, with a digit for writer and stepper, and three for the step
	maxStep    = 999
	maxVersion = 20_000 // TLC's integers have 32 bits
)

type limits struct{ steps, traces, least int }

// longEnough is why a trace ends that Hermes.tla could go on with.
const longEnough = "it is long enough (-steps)"

// trace is what a group has done with one key.
type trace struct {
	name   string
	events []string // TLA+ records
	cut    string   // why it ends before the group's steps do
}

// builder makes one key's trace.
type builder struct {
	trace
	epoch   uint64         // of the first view: 1 in the specification
	views   uint64         // views so far
	members []int          // of the newest
	gone    map[uint8]bool // replicas that have crashed
}

// tracesOf makes the traces of all keys of a group; some have no steps, since they end before the first one.
func tracesOf(folder string, steps []*step, limit int) (traces []trace, err error) {
	epoch, ok := firstView(steps)
	if !ok {
		return nil, nil
	}
	for _, key := range keysOf(steps) {
		b := builder{epoch: epoch, views: 1, members: []int{1, 2, 3}, gone: map[uint8]bool{}}
		b.name = fmt.Sprintf("%s, lane %d, %s", folder, key.lane, key.key)
		for _, s := range steps {
			if s.Lane != key.lane || s.Key != "" && s.Key != key.key {
				continue
			}
			if b.cut = b.unknown(s); b.cut != "" {
				break
			}
			if err := b.add(s); err != nil {
				return nil, err
			}
			if len(b.events) >= limit {
				b.cut = longEnough
				break
			}
		}
		traces = append(traces, b.trace)
	}
	return traces, nil
}

// unknown says why Hermes.tla does not know a step, or nothing.
func (b *builder) unknown(s *step) string {
	const absent = replication.BitTombstone | replication.BitOnAbsent | replication.BitAbsent | replication.BitFlush
	bits := s.Bits
	for _, m := range s.Sent {
		bits |= m.Bits
	}
	switch {
	case s.Step == replication.StepEnter:
		if s.Epoch < b.epoch {
			return ""
		}
		if s.Epoch > b.epoch+b.views || s.Epoch == b.epoch+b.views && !subset(s.Members, b.members) {
			return "a replica joins"
		}
		if b.gone[s.Replica] {
			return "a replica removed goes on"
		}
		return ""
	case s.Epoch < b.epoch:
		return "the key was used before the group was complete"
	case s.Step == replication.StepEnd && b.gone[s.Replica]:
		return ""
	case s.Step == replication.StepEnd:
		return "a replica that is in the view has ended"
	case s.Step == replication.StepAlone:
		return "a replica is left alone"
	case s.Step == replication.StepFlush:
		return "the lane is flushed"
	case s.State.Tombstone || bits&absent != 0:
		return "the key is deleted, or an update is of an absent key"
	case b.gone[s.Replica]:
		return "a replica removed goes on"
	case tooGreat(s.State.TS) || s.TS != nil && tooGreat(*s.TS) || s.Newer != nil && tooGreat(*s.Newer):
		return "a time stamp is too great to be written in decimal"
	}
	return ""
}

func subset(a, b []int) bool {
	return !slices.ContainsFunc(a, func(x int) bool { return !slices.Contains(b, x) })
}

func tooGreat(ts replication.TraceTS) bool {
	return ts[0] > maxVersion || ts[1] > maxReplica || ts[2] > maxStep || ts[3] > maxReplica
}

// add adds a step.
func (b *builder) add(s *step) error {
	if s.Step == replication.StepEnter {
		b.enter(s)
		return nil
	}
	if s.Step == replication.StepEnd {
		return nil
	}
	if s.TS == nil || (s.Step == replication.StepNACK || s.Step == replication.StepSTATE) && s.Newer == nil {
		return fmt.Errorf("replica %d, time %d: a step %s without its time stamps", s.Replica, s.Time, s.Step)
	}
	kind := "write"
	if s.RMW {
		kind = "rmw"
	}
	f := []string{
		field("step", quoted(string(s.Step))), field("at", s.Replica), field("from", s.From), field("ts", number(*s.TS)),
		field("kind", quoted(kind)), field("replay", truth(s.Bits&replication.BitReplay != 0)), field("ended", truth(s.Ended)),
		field("closed", truth(s.Closed)), field("newer", 0), field("finisher", s.Finisher),
		field("state", fmt.Sprintf("[ts |-> %d, valid |-> %s, finisher |-> %d]", number(s.State.TS), truth(s.State.Valid), s.State.Finisher)),
	}
	if s.Newer != nil {
		f[8] = field("newer", number(*s.Newer))
	}
	var sent []string
	for _, m := range s.Sent {
		if text := b.message(s, m); !slices.Contains(sent, text) {
			sent = append(sent, text)
		}
	}
	b.events = append(b.events, record(append(f, field("sent", "{"+strings.Join(sent, ", ")+"}"))))
	return nil
}

// enter adds that a replica enters a view. Before the first one to do so, those that are not in it have crashed.
func (b *builder) enter(s *step) {
	if s.Epoch <= b.epoch {
		return // Hermes.tla begins with all replicas in the first view
	}
	if s.Epoch == b.epoch+b.views {
		for _, member := range b.members {
			if !slices.Contains(s.Members, member) {
				b.gone[uint8(member)] = true
				b.events = append(b.events, record([]string{field("step", quoted("crash")), field("at", member)}))
			}
		}
		b.views++
		b.members = s.Members
		b.events = append(b.events, record([]string{field("step", quoted("view")), field("members", set(s.Members))}))
	}
	b.events = append(b.events, record([]string{field("step", quoted("enter")), field("at", s.Replica), field("epoch", s.Epoch-b.epoch+1), field("members", set(s.Members))}))
}

// message writes a message as Hermes.tla does. It has one for all where the engine sends one to each, and answers questions with STATE also where
// the engine's shorter VAL says the same.
func (b *builder) message(s *step, m *replication.TraceMessage) string {
	kind, to := m.Kind, m.To
	if kind == "INV" || kind == "VAL" && s.Step != replication.StepPROBE {
		to = 0
	}
	newer := m.Newer
	if s.Step == replication.StepPROBE && kind == "VAL" {
		kind, newer = "STATE", &m.TS
	}
	f := []string{field("type", quoted(kind)), field("from", s.Replica), field("to", to), field("epoch", s.Epoch-b.epoch+1), field("ts", number(m.TS))}
	switch kind {
	case "INV":
		f = append(f, field("kind", quoted(kindOf(m.TS))), field("replay", truth(m.Bits&replication.BitReplay != 0)))
	case "NACK":
		f = append(f, field("newer", number(*newer)), field("finisher", m.Finisher))
	case "STATE":
		f = append(f, field("newer", number(*newer)))
	}
	return record(f)
}

// number is a time stamp as TraceHermes.tla writes it.
func number(ts replication.TraceTS) uint64 { return 100_000*ts[0] + 10_000*ts[1] + 10*ts[2] + ts[3] }

func kindOf(ts replication.TraceTS) string {
	if ts[2] != 0 {
		return "rmw"
	}
	return "write"
}

func field(name string, value any) string { return fmt.Sprintf("%s |-> %v", name, value) }
func record(fields []string) string       { return "[" + strings.Join(fields, ", ") + "]" }
func quoted(s string) string              { return `"` + s + `"` }

func truth(b bool) string {
	if b {
		return "TRUE"
	}
	return "FALSE"
}

func set(numbers []int) string {
	return "{" + strings.Trim(strings.ReplaceAll(fmt.Sprint(numbers), " ", ", "), "[]") + "}"
}

// writeModule writes the module. Names are comments: what a key is called may be anything.
func writeModule(w io.Writer, name string, traces []trace) {
	fmt.Fprintf(w, "---- MODULE %s ----\nTraces == <<\n", name)
	for i, t := range traces {
		fmt.Fprintf(w, "\\* %d: %q", i+1, t.name)
		if t.cut != "" {
			fmt.Fprintf(w, "; ends: %s", t.cut)
		}
		fmt.Fprintf(w, "\n<<%s>>%s\n", strings.Join(t.events, ",\n  "), strings.Repeat(",", b2i(i+1 < len(traces))))
	}
	fmt.Fprint(w, ">>\n====\n")
}
