package replication

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hermesd/bench/history"
)

var rewrite = flag.Bool("rewrite", false, "TestScenarios: write what happens into testdata/*.txt instead of comparing; read the difference before you commit it")

// TestScenarios plays the stories of testdata/*.txt: commands, each followed by what it is known to bring about. docs/testing-engine.md
// explains the commands.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { play(t, file) })
	}
}

// play runs one file. It consists of comments (#), blank lines, and steps: command lines, a line ----, and the outcome up to
// a blank line.
func play(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var s scenario
	var written strings.Builder
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		written.WriteString(line + "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if line != "----" {
			s.run(t, fmt.Sprintf("%s:%d", file, i+1), line)
			continue
		}
		first := i + 1
		for i+1 < len(lines) && lines[i+1] != "" {
			i++
		}
		want, got := strings.Join(lines[first:i+1], "\n"), s.outcome()
		if got != want && !*rewrite {
			t.Fatalf("%s:%d: it came otherwise:\n%s\nwanted:\n%s\n(if the new outcome is right: go test ./replication -run TestScenarios -rewrite)", file, first, got, want)
		}
		written.WriteString(got + "\n")
	}
	if rest := s.out.String(); rest != "" {
		t.Errorf("%s: the last commands are not followed by ---- and their outcome:\n%s", file, rest)
	}
	if *rewrite {
		if err := os.WriteFile(file, []byte(written.String()), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// actor is a replica under some rules: ours, or the published ones.
type actor interface {
	submit(q *request, tag int, cas uint64)
	receive(m *Message)
	emitted() ([]sent, []*Op) // since it was last asked
	show(keys []string) string
}

func (r *replica) receive(m *Message) { r.lane.Receive(m) }

func (r *replica) emitted() ([]sent, []*Op) {
	sent, done := r.sent, r.done
	r.sent, r.done = nil, nil
	return sent, done
}

// scenario is a group that does what commands say.
type scenario struct {
	actors   []actor
	links    [][]*Message // from*n+to, oldest first
	ends     []endState   // at*n+peer
	requests []request
	calls    []int    // the history's numbers
	uniques  []uint64 // by request: of what it has stored
	history  *history.History
	views    []View // from epoch 1 on
	crashed  map[int]bool
	out      strings.Builder
}

func (s *scenario) printf(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }

// outcome returns what has been printed since it was last called.
func (s *scenario) outcome() string {
	text := strings.TrimRight(s.out.String(), "\n")
	s.out.Reset()
	if text == "" {
		return "ok"
	}
	return text
}

// run carries out a command.
func (s *scenario) run(t *testing.T, where, line string) {
	t.Helper()
	words := strings.Fields(line)
	if words[0] == "replicas" {
		s.start(t, where, words[1:])
		return
	}
	defer s.inspect(s.copies())
	if s.actors == nil {
		t.Fatalf("%s: the first command must be replicas", where)
	}
	var a, b int
	if len(words) > 1 {
		a, b = s.member(words[1][:1]), s.member(words[1][len(words[1])-1:])
	}
	switch words[0] {
	case "submit":
		s.submit(t, where, words[1:])
	case "deliver":
		kind := ""
		if len(words) > 2 {
			kind = words[2]
		}
		if !s.deliver(a, b, kind) {
			t.Fatalf("%s: %s: nothing such is under way", where, line)
		}
	case "stabilize":
		s.stabilize(strings.Join(words[1:], ""))
	case "down":
		s.down(a, s.member(words[2]))
	case "up":
		s.up(t, where, a, s.member(words[2]))
	case "break":
		s.down(a, s.member(words[2]))
		s.down(s.member(words[2]), a)
	case "mend":
		s.up(t, where, a, s.member(words[2]))
		s.up(t, where, s.member(words[2]), a)
	case "tick":
		s.tick(words[1:])
	case "room":
		r := s.actors[a].(*replica)
		if r.refuse = words[2] == "none"; !r.refuse {
			r.room()
		}
		s.collect(a)
	case "crash":
		s.crash(a)
	case "begin":
		s.begin(a)
	case "view":
		s.view(words[1:])
	case "enter":
		for _, name := range words[1:] {
			s.enter(s.member(name))
		}
	case "connect":
		s.connect(a, s.member(words[2]))
	case "fetch":
		bytes, _ := strconv.Atoi(words[3])
		if !s.actors[a].(*replica).lane.Fetch(uint8(s.member(words[2])+1), uint32(bytes)) {
			s.printf("nothing is asked for")
		}
		s.collect(a)
	case "state":
		for i, r := range s.actors {
			if s.crashed[i] {
				continue
			}
			s.printf("%s", r.show(keysOf(s.requests)))
		}
	case "pending":
		s.pending()
	case "check":
		s.check()
	default:
		t.Fatalf("%s: unknown command %s", where, words[0])
	}
}

// copies returns the replicas as they are now; none of the published rule.
func (s *scenario) copies() (rs []*replica) {
	for _, a := range s.actors {
		if r, ours := a.(*replica); ours {
			rs = append(rs, r.clone())
		}
	}
	return rs
}

// inspect prints what is wrong within a replica that was in another state before.
func (s *scenario) inspect(before []*replica) {
	keys := keysOf(s.requests)
	for i, old := range before {
		r := s.actors[i].(*replica)
		if old.self != r.self {
			continue // another life
		}
		for _, wrong := range []string{r.sound(keys), rises(old, r, keys)} {
			if wrong != "" {
				s.printf("WRONG at %s: %s", memberName(r.self.Number), wrong)
			}
		}
	}
}

func (s *scenario) member(name string) int {
	if len(name) == 1 && name[0] >= 'a' && int(name[0]-'a') < len(s.actors) {
		return int(name[0] - 'a')
	}
	return 0
}

// start makes the group: replicas N [published] [probe=ticks] [yield=ticks] [clock=ticks] [timeout=ticks].
func (s *scenario) start(t *testing.T, where string, words []string) {
	n, err := strconv.Atoi(words[0])
	if err != nil {
		t.Fatalf("%s: how many replicas? %v", where, err)
	}
	*s = scenario{links: make([][]*Message, n*n), ends: make([]endState, n*n), history: history.New(nil)}
	timing := eager
	published := false
	for _, word := range words[1:] {
		name, value, _ := strings.Cut(word, "=")
		ticks, _ := strconv.ParseUint(value, 10, 32)
		field := map[string]*uint64{"probe": &timing.Probe, "yield": &timing.Yield, "clock": &timing.Clock, "timeout": &timing.Timeout}[name]
		switch {
		case name == "published":
			published = true
		case field != nil && ticks > 0:
			*field = ticks
		default:
			t.Fatalf("%s: what is %s?", where, word)
		}
	}
	if published {
		for i := range n {
			s.actors = append(s.actors, newPublished(i, n))
		}
		return
	}
	rs := newReplicas(n, timing)
	s.crashed = make(map[int]bool)
	s.views = []View{{Epoch: 1}}
	for _, r := range rs {
		s.views[0].Members = append(s.views[0].Members, r.self)
	}
	for i, r := range rs {
		s.actors = append(s.actors, r)
		for j, peer := range rs {
			if i != j {
				r.lane.PeerUp(peer.self)
			}
		}
	}
	for _, r := range rs { // the MARKs of the first connections are of no interest
		for _, m := range r.sent {
			rs[m.to-1].lane.Receive(m.m)
		}
		r.sent = nil
	}
}

// submit gives a replica a request: submit a set k 1.
func (s *scenario) submit(t *testing.T, where string, words []string) {
	q, of := parseRequest(t, where, words)
	q.at = s.member(words[0])
	var unique uint64 = noUnique
	if of > 0 && of <= len(s.uniques) {
		unique = s.uniques[of-1]
	}
	s.requests = append(s.requests, q)
	s.uniques = append(s.uniques, 0)
	s.calls = append(s.calls, s.history.Call(q.at, input(&q, unique)))
	n := len(s.requests)
	s.printf("%d: %s", n, strings.Join(words, " "))
	s.actors[q.at].submit(&q, n, unique)
	s.collect(q.at)
}

// parseRequest parses member, operation, key, argument, and the word gone for an exptime in the past. The argument of cas is a value and
// "of N", N being the request whose unique it compares with.
func parseRequest(t *testing.T, where string, words []string) (q request, of int) {
	kind := -1
	for i, name := range opNames {
		if name == words[1] {
			kind = i
		}
	}
	if kind < 0 {
		t.Fatalf("%s: unknown operation %s", where, words[1])
	}
	q.kind = OpKind(kind)
	args := words[2:]
	if n := len(args); n > 0 && args[n-1] == "gone" {
		q.dead, args = true, args[:n-1]
	}
	if len(args) > 0 {
		q.key = args[0]
	}
	if len(args) > 1 {
		q.value = args[1]
		q.delta, _ = strconv.ParseUint(args[1], 10, 64)
	}
	if len(args) > 3 && args[2] == "of" {
		of, _ = strconv.Atoi(args[3])
	}
	return q, of
}

// deliver hands over the oldest message from a to b, or the oldest of a kind, which real channels never do.
func (s *scenario) deliver(a, b int, kind string) bool {
	link := a*len(s.actors) + b
	ms := s.links[link]
	i := slices.IndexFunc(ms, func(m *Message) bool { return kind == "" || m.Kind.String() == kind })
	if i < 0 || s.ends[b*len(s.actors)+a] == endDown || s.crashed[b] {
		return false
	}
	m := ms[i]
	if r, ours := s.actors[b].(*replica); ours && m.Epoch > r.lane.epoch {
		return false // the channel waits until the view is entered
	}
	s.links[link] = slices.Delete(slices.Clone(ms), i, i+1)
	s.printf("%s gets from %s: %s", memberName(uint8(b+1)), memberName(uint8(a+1)), showMessage(m))
	s.actors[b].receive(m)
	s.collect(b)
	return true
}

// stabilize delivers until nothing is under way, between the members named, or all.
func (s *scenario) stabilize(among string) {
	for moved := true; moved; {
		moved = false
		for link := range s.links {
			a, b := link/len(s.actors), link%len(s.actors)
			if among != "" && !(strings.Contains(among, memberName(uint8(a+1))) && strings.Contains(among, memberName(uint8(b+1)))) {
				continue
			}
			for s.deliver(a, b, "") {
				moved = true
			}
		}
	}
}

// collect prints what a replica has put out, and puts its messages on their way.
func (s *scenario) collect(at int) {
	n := len(s.actors)
	sent, done := s.actors[at].emitted()
	for _, m := range sent {
		to := int(m.to) - 1
		lost := ""
		if s.crashed[to] || s.ends[to*n+at] == endDown && s.ends[at*n+to] == endUp {
			lost = " (lost)"
		} else {
			s.links[at*n+to] = append(s.links[at*n+to], m.m)
		}
		s.printf("  %s>%s %s%s", memberName(uint8(at+1)), memberName(uint8(to+1)), showMessage(m.m), lost)
	}
	for _, op := range done {
		i := op.Tag - 1
		if op.Client == nil && s.requests[i].kind != opEvict {
			s.printf("  %d, which nobody waits for any more: %v", op.Tag, outcomeOf(op))
			continue
		}
		s.printf("  %d: %v", op.Tag, outcomeOf(op))
		s.uniques[i] = op.Result.CAS
		s.history.Return(s.calls[i], answerOf(op))
	}
}

func (s *scenario) down(at, peer int) {
	n := len(s.actors)
	s.ends[at*n+peer] = endDown
	s.lose(peer, at)
	if s.ends[peer*n+at] != endUp {
		s.lose(at, peer)
	}
	r := s.actors[at].(*replica)
	r.lane.PeerDown(s.actors[peer].(*replica).self)
	s.collect(at)
}

// lose loses what is under way from a to b.
func (s *scenario) lose(a, b int) {
	link := a*len(s.actors) + b
	for _, m := range s.links[link] {
		s.printf("lost %s>%s %s", memberName(uint8(a+1)), memberName(uint8(b+1)), showMessage(m))
	}
	s.links[link] = nil
}

func (s *scenario) up(t *testing.T, where string, at, peer int) {
	n := len(s.actors)
	if s.ends[peer*n+at] == endUp || s.ends[at*n+peer] != endDown {
		t.Fatalf("%s: a new connection is used only when both have noticed the end of the old one", where)
	}
	s.ends[at*n+peer] = endNew
	if s.ends[peer*n+at] == endNew {
		s.ends[at*n+peer], s.ends[peer*n+at] = endUp, endUp
	}
	s.actors[at].(*replica).lane.PeerUp(s.actors[peer].(*replica).self)
	s.collect(at)
}

// tick gives one replica, or all, a number of ticks.
func (s *scenario) tick(words []string) {
	first, last := 0, len(s.actors)
	if len(words) > 0 && words[0] >= "a" {
		first = s.member(words[0])
		last = first + 1
		words = words[1:]
	}
	ticks := 1
	if len(words) > 0 {
		ticks, _ = strconv.Atoi(words[0])
	}
	for range ticks {
		for i := first; i < last; i++ {
			if s.crashed[i] {
				continue
			}
			s.actors[i].(*replica).lane.Tick()
			s.collect(i)
		}
	}
}

// pending prints what is under way.
func (s *scenario) pending() {
	for link, ms := range s.links {
		for _, m := range ms {
			s.printf("%s>%s %s", memberName(uint8(link/len(s.actors)+1)), memberName(uint8(link%len(s.actors)+1)), showMessage(m))
		}
	}
}

// check has porcupine judge what clients have asked and been answered.
func (s *scenario) check() {
	if err := s.history.Check(time.Minute); err != nil {
		s.printf("%v", err)
		return
	}
	s.printf("linearizable")
}

var historyKinds = map[OpKind]history.Kind{OpGet: history.Get, OpSet: history.Set, OpAdd: history.Add, OpReplace: history.Replace, OpAppend: history.Append,
	OpPrepend: history.Prepend, OpCAS: history.CAS, OpIncr: history.Incr, OpDecr: history.Decr, OpTouch: history.Touch, OpGat: history.Gat,
	OpDelete: history.Delete, OpFlush: history.Flush}

func input(q *request, unique uint64) history.Input {
	return history.Input{Kind: historyKinds[q.kind], Key: q.key, Value: q.value, Expired: q.dead, CAS: unique, Delta: q.delta}
}

var historyStatuses = map[Status]history.Status{Hit: history.Hit, Miss: history.Miss, Stored: history.Stored, NotStored: history.NotStored, Exists: history.Exists,
	NotFound: history.NotFound, Deleted: history.Deleted, Touched: history.Touched, Number: history.Number, NonNumeric: history.NonNumeric, Flushed: history.OK}

func answerOf(op *Op) history.Output {
	o := history.Output{Status: historyStatuses[op.Result.Status], Number: op.Result.Number}
	if o.Status == history.Hit {
		o.Value, o.CAS = string(op.Result.Value), op.Result.CAS
	}
	return o
}
