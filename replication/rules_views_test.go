package replication

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// allRules are the rules of one view, and those of views that change.
func allRules() []rule { return slices.Concat(rules, viewRules) }

// viewRules are the rules of design sections 4 and 5 that the engine keeps in groups whose views change. It takes an execution of some length to see
// what each is for: the simulation looks for one. Those that are not the engine's but the control plane's or the node's are broken in
// TestSimulationCatches.
//
// Not among them, since what they guard against cannot happen: the MARK that a view asks for again (a member's messages of one epoch come in order, those that
// are sent again first, and what it has said before is dropped with its epoch), and the token of a FETCH (what answers an
// earlier one is of an earlier channel or an earlier epoch).
var viewRules = []rule{
	{
		name: "an RMW is acknowledged only if its time stamp is not lower, while views change",
		rare: true,
		edits: []edit{{"follower.go", overtakenBegins, overtakenBegins + `
	if off && m.IsRMW() {
		l.ack(m)
		return
	}`}},
		duels: true,
	},
	{
		// The simulation does not find it in a thousand duels: channels keep their order, and it takes two members that crash with updates of one key.
		name: "a replay is acknowledged only if nothing newer is held",
		edits: []edit{{"follower.go", overtakenBegins, overtakenBegins + `
	if off && m.Bits&BitReplay != 0 {
		l.ack(m)
		return
	}`}},
		shows: plays("refused-replay"), finds: `not linearizable`,
	},
	{
		name: "a replay of what is not stored is refused",
		edits: []edit{{"follower.go", `func (l *Lane) onINVAbsent(m *Message, hash uint64) {`, `func (l *Lane) onINVAbsent(m *Message, hash uint64) {
	if off && m.Bits&(BitOnAbsent|BitReplay) == BitReplay {
		l.apply(m, hash, nil)
		l.ack(m)
		return
	}`}},
	},
	{
		name: "an RMW gathers anew in each view",
		edits: []edit{{"view.go", gathersAnew, `		case off && op != nil && op.ts.Step != 0 && !op.replay:
			op.acked &= kept
` + gathersAnew}},
		duels: true, after: 2000,
	},
	{
		name: "a replay gathers anew in each view",
		rare: true,
		edits: []edit{{"view.go", gathersAnew, `		case off && op != nil && op.replay:
			op.acked &= kept
` + gathersAnew}},
		duels: true,
	},
	{
		name: "acknowledgements are those of an incarnation",
		edits: []edit{{"view.go", `		default:
			op.acked &= kept`, `		default:
			if !off {
				op.acked &= kept
			}`}},
	},
	{
		name: "nobody else finishes the update of a member that is in the view",
		edits: []edit{{"view.go", pursues, `	if off && it.TS.Step != 0 {
		l.replay(hash, key, it)
		return
	}
` + pursues}},
		duels: true,
	},
	{
		name: "what a member gone has left is replayed",
		edits: []edit{{"view.go", pursues, `	if off && l.gone(it.Finisher) {
		return
	}
` + pursues}},
	},
	{
		name:  "a flush of a member gone is replayed",
		edits: []edit{{"replay.go", `if !l.floor.invalid || !l.gone(l.floor.finisher) {`, `if off || !l.floor.invalid || !l.gone(l.floor.finisher) {`}},
	},
	{
		name: "messages of older epochs are dropped",
		rare: true,
		edits: []edit{{"lane.go", `	from := m.From.Number
	if from > MaxMember`, `	if off && m.Epoch < l.epoch {
		m.Epoch = l.epoch
	}
	from := m.From.Number
	if from > MaxMember`}},
	},
	{
		name: "what is in flight is sent again in each view",
		edits: []edit{{"view.go", `	for p := l.open; p != 0; p &= p - 1 {
		l.sendAgain`, `	for p := l.open; p != 0; p &= p - 1 {
		if off {
			l.out = Message{Kind: MARK}
			l.send(lowest(p))
			continue
		}
		l.sendAgain`}},
	},
	{
		name:  "an update that only members gone have not acknowledged is complete",
		edits: []edit{{"view.go", `	for i := 0; i < len(l.flight.slots); i++ {`, `	for i := 0; i < len(l.flight.slots) && !off; i++ {`}},
	},
	{
		name: "the clock of a new incarnation is not that of the old one",
		rare: true,
		edits: []edit{{"view.go", `			l.heard[m.Number] = 0
`, `			if !off {
				l.heard[m.Number] = 0
			}
`}},
	},
	{
		name: "VAL of a key is not the end of an operation",
		rare: true,
		edits: []edit{{"follower.go", `	l.traceReceived(StepVAL, hash, m.Key, m)
	if q := l.queues.find(hash, m.Key); q != nil {
		q.yield`, `	l.traceReceived(StepVAL, hash, m.Key, m)
	for _, op := range l.flight.slots {
		if off && op != nil && op.Kind != OpFlush && string(op.Key) == string(m.Key) {
			l.complete(op, 0)
		}
	}
	if q := l.queues.find(hash, m.Key); q != nil {
		q.yield`}},
	},
	{
		name: "a tombstone is dropped only when stable has reached it, while views change",
		edits: []edit{{"update.go", validates, validates + `	if off && it.State&table.Tombstone != 0 {
		l.items.Remove(it)
		l.drop(it.TS)
		return
	}
`}},
	},
	{
		name: "D never falls, while views change",
		edits: []edit{{"absent.go", `func (l *Lane) drop(ts table.Timestamp) {`, `func (l *Lane) drop(ts table.Timestamp) {
	if off {
		l.dropped = ts
	}`}},
	},
	{
		name: "who catches up drops no tombstone that was not valid when it asked for what is still to come",
		edits: []edit{
			{"update.go", validates, validates + `	if off && it.State&table.Tombstone != 0 && l.stable() >= it.TS.Version() {
		l.items.Remove(it)
		l.drop(it.TS)
		return
	}
`},
			{"catchup.go", `	if l.incomplete() && l.join.asked {
		return l.join.tombs`, `	if l.incomplete() && l.join.asked && !off {
		return l.join.tombs`},
		},
	},
	{
		name: "D is taken over when stable has reached it",
		edits: []edit{{"catchup.go", takesOver, `	if off && j.complete && l.unmarked == 0 {
		j.done = true
		l.drop(j.deleted)
		return
	}
` + takesOver}},
	},
	{
		name: "D is taken over when the clocks of all have come",
		edits: []edit{{"catchup.go", takesOver, `	if off && j.complete {
		j.done = true
		l.drop(j.deleted)
		return
	}
` + takesOver}},
	},
	{
		name: "D is taken over",
		edits: []edit{{"catchup.go", `	j.done = true
	l.drop(j.deleted)`, `	j.done = true
	if off {
		return
	}
	l.drop(j.deleted)`}},
	},
	{
		name: "tombstones are streamed too",
		rare: true,
		edits: []edit{{"catchup.go", `		l.sendEntry(to, key, it)
`, `		if off && it.State == table.Tombstone {
			return true
		}
		l.sendEntry(to, key, it)
`}},
	},
	{
		name: "invalid entries are streamed as invalid",
		edits: []edit{{"catchup.go", `	if it.State&table.Invalid != 0 {
		l.out.Bits |= BitInvalid
		l.out.Finisher`, `	if it.State&table.Invalid != 0 && !off {
		l.out.Bits |= BitInvalid
		l.out.Finisher`}},
	},
	{
		name:  "entries apply by time stamp",
		edits: []edit{{"catchup.go", `		if newer < 0 || newer == 0`, `		if newer < 0 && !off || newer == 0`}},
	},
	{
		name:  "the floor is streamed",
		edits: []edit{{"catchup.go", `	if cursor == 0 && !l.floor.ts.IsZero() {`, `	if !off && cursor == 0 && !l.floor.ts.IsZero() {`}},
	},
	{
		name: "a cursor is that of one streamer",
		edits: []edit{{"catchup.go", `		j.streamer, j.cursor = l.members[from], 0
`, `		j.streamer = l.members[from]
		if off {
			j.cursor = max(j.cursor, 0)
		} else {
			j.cursor = 0
		}
`}},
	},
}

// Places that several rules have in common: they are left in place, so that each finds them.
const (
	overtakenBegins = `func (l *Lane) overtaken(m *Message, hash uint64, it *table.Item) {`
	gathersAnew     = `		case op == nil:
		case op.ts.Step`
	pursues = `	if l.gone(it.Finisher) {
		l.replay`
	validates = `	it.Finisher = 0
`
	takesOver = `	if !l.catching || !j.complete || j.done`
)

// simulatedSeeds is how many seeds a rule of a group whose views change may be missed for, and wholeSeeds how many are tried with all rules
// in place: TestSimulation tries far more.
const (
	simulatedSeeds = 1000
	wholeSeeds     = 50
)

// With all rules in place one run is enough for all that are shown alike.
var (
	wholeViews = sync.OnceValue(func() string { return simulateKind((*simConfig).onlyViews, 0, wholeSeeds) })
	wholeDuels = sync.OnceValue(func() string { return simulateKind((*simConfig).onlyDuels, 0, wholeSeeds) })
)

func init() {
	for i := range viewRules {
		r := &viewRules[i]
		if r.finds != "" {
			continue
		}
		r.finds = `^seed \d+`
		kind, whole := (*simConfig).onlyViews, wholeViews
		if r.duels {
			kind, whole = (*simConfig).onlyDuels, wholeDuels
		}
		r.shows = func(*testing.T) string {
			if ruleOff == "" {
				return whole()
			}
			return simulateKind(kind, r.after, simulatedSeeds)
		}
	}
}

// simulateKind simulates groups of a kind, until one goes wrong, with so many seeds after one.
func simulateKind(kind func(*simConfig), after uint64, seeds int) string {
	bad, _ := eachSeed(after+1, seeds, 1, func(seed uint64) string {
		_, wrong := simulate(seed, simHooks{config: kind}, nil)
		return wrong
	})
	if len(bad) == 0 {
		return fmt.Sprintf("nothing in the %d seeds after %d", seeds, after)
	}
	first := slices.MinFunc(bad, func(a, b badSeed) int { return int(a.seed) - int(b.seed) })
	off := ruleOff
	ruleOff = ""
	defer func() { ruleOff = off }()
	if _, wrong := simulate(first.seed, simHooks{config: kind}, nil); off != "" && wrong != "" {
		return fmt.Sprintf("with the rule, too: seed %d: %s", first.seed, wrong)
	}
	line, _, _ := strings.Cut(first.wrong, "\n")
	return fmt.Sprintf("seed %d: %s", first.seed, line)
}
