package replication

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hermesd/bench/history"
)

// Simulated groups write what they do as traces, of which tla/check has TLC decide whether they are executions of tla/Hermes.tla. What is simulated
// is what that specification is of: keys that are set and modified and never deleted, over channels that break and are slow; in every other
// seed replicas crash too.

var (
	traceDir   = flag.String("trace.dir", "", "TestWriteTraces, TestWriteTracesWithoutRule: where traces are written")
	traceSeeds = flag.Int("trace.seeds", 150, "how many groups are traced")
	traceRule  = flag.String("trace.rule", "", "TestWriteTracesWithoutRule: the rule that does not hold (TestWriteTraces runs it)")
)

// tracedRules are rules of which tla/check shows that an engine without them writes traces that the specification does not have.
var tracedRules = []string{
	"an RMW is acknowledged only if its time stamp is not lower",
	"an RMW takes a step on what it has read",
	"a plain write is always acknowledged",
	"a follower applies only what is newer",
	"an update is complete when all members have acknowledged it",
	"the key is invalid at a follower until it is validated",
	"an outranked RMW is not answered, but run again",
	"an RMW waits until the key is valid",
	"a write waits for the same member's RMW in flight",
	"VAL counts only for equal time stamps",
	"an RMW gathers anew in each view",
	"nobody else finishes the update of a member that is in the view",
}

// simTracer gives steps the simulation's time.
type simTracer struct{ s *sim }

func (t simTracer) Trace(step *TraceStep) {
	step.Time = int64(t.s.now) + 1
	t.s.hooks.tracer.Trace(step)
}

// traceable makes a configuration one of which Hermes.tla can say whether it is right.
func (c *simConfig) traceable() {
	random := rand.New(rand.NewPCG(c.seed, 4))
	if c.seed%2 == 0 {
		*c = drawDynamic(c.seed)
		c.partitions, c.leaves, c.pauses, c.longPauses, c.witness = 0, 0, 0, false, false
		c.crashes = pick(random, uint64(2), 5) * c.steps(c.views.Lease)
	} else {
		c.nodes, c.dynamic, c.crashes, c.leaves, c.partitions = false, false, 0, 0, 0
		c.delay, c.tick, c.timing.Probe = 30, 30, 8
		c.breaks = pick(random, uint64(0), 10, 30) * c.delay
	}
	c.replicas, c.lanes, c.keys, c.clients = 3, 1, pick(random, 1, 1, 3), 1+random.IntN(2)
	c.ops = 24 / c.clients
	c.think = pick(random, 1, c.delay)
	c.timing.Timeout, c.full, c.refusals, c.evictions = 0, 0, 0, 0
	c.rareExpiry, c.numbers = true, true
	c.uneven, c.tail = true, pick(random, 0, 5)
	c.weights = [simKinds]int{}
	c.weights[history.Set], c.weights[history.Incr], c.weights[history.Append] = pick(random, 1, 3), 10, 1
	c.weights[history.Gets], c.weights[history.CAS] = 2, pick(random, 0, 3)
}

// traced runs a seed and has its steps told to t. What is violated is returned, as simulate does.
func traced(seed uint64, t Tracer) (wrong string) {
	_, wrong = simulate(seed, simHooks{config: (*simConfig).traceable, tracer: t}, nil)
	return wrong
}

// stepCount counts steps by name.
type stepCount map[Step]int

func (c stepCount) Trace(s *TraceStep) { c[s.Step]++ }

// TestTracesHaveEveryStep: what TLC is given has the steps in it that Hermes.tla knows of, many times, and not many others. Not STATE: who is the finisher
// of an update of a stored key, and has something newer, has had the asker's acknowledgement of that.
func TestTracesHaveEveryStep(t *testing.T) {
	counts := stepCount{}
	for seed := range uint64(40) {
		if wrong := traced(seed+1, counts); wrong != "" {
			t.Errorf("seed %d: %s", seed+1, wrong)
		}
	}
	for step, least := range map[Step]int{StepAnswer: 500, StepStart: 1000, StepINV: 2000, StepACK: 1000, StepNACK: 20, StepVAL: 500, StepPROBE: 20, StepAgain: 50,
		StepEnter: 50, StepComplete: 20, StepReplay: 20} {
		if counts[step] < least {
			t.Errorf("%d steps %s, want %d or more", counts[step], step, least)
		}
	}
	t.Log(counts)
}

// TestTraceWriterTellsOfErrors: a trace with a gap is none, so nothing is written after an error, which is kept.
// TestKeysOfTracesDiffer: also those that JSON cannot tell apart, which clients send with the base64 flag of meta commands.
func TestKeysOfTracesDiffer(t *testing.T) {
	seen := map[string]string{}
	for _, key := range []string{"key", "k\xff", "k\xfe", "k\ufffd", "\xff", "hex ff", "hex 6bff", "hex "} {
		text, err := json.Marshal(TraceStep{Key: traceKey([]byte(key))})
		if err != nil {
			t.Fatal(err)
		}
		if other, is := seen[string(text)]; is {
			t.Errorf("%q and %q are both %s", key, other, text)
		}
		seen[string(text)] = key
	}
	if got := traceKey([]byte("user:1")); got != "user:1" {
		t.Errorf("a key that is a text is traced as %q", got)
	}
}

func TestTraceWriterTellsOfErrors(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("this system has no /dev/full: %v", err)
	}
	defer full.Close()
	w := NewTraceWriter(full)
	w.Trace(&TraceStep{Step: StepStart})
	first := w.Err()
	w.Trace(&TraceStep{Step: StepStart})
	if first == nil || w.Err() != first {
		t.Errorf("writing to a full disk: %v, then %v", first, w.Err())
	}
}

// writeTraces writes the traces of seeds, each group into a folder of its own. wrong is told of what is violated.
func writeTraces(t *testing.T, dir string, wrong func(seed uint64, what string)) {
	t.Helper()
	for seed := range uint64(*traceSeeds) {
		folder := filepath.Join(dir, fmt.Sprintf("seed-%d", seed+1))
		if err := os.MkdirAll(folder, 0o777); err != nil {
			t.Fatal(err)
		}
		file, err := os.Create(filepath.Join(folder, "group.ndjson"))
		if err != nil {
			t.Fatal(err)
		}
		w := NewTraceWriter(file)
		if what := traced(seed+1, w); what != "" {
			wrong(seed+1, what)
		}
		if err := w.Err(); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWriteTraces writes traces for tla/check: those of the engine into the folder `sound`, and those of engines with a rule taken out into folders named
// after the rules, in the folder `without`.
func TestWriteTraces(t *testing.T) {
	if *traceDir == "" {
		t.Skip("run by tla/check, with -trace.dir")
	}
	writeTraces(t, filepath.Join(*traceDir, "sound"), func(seed uint64, what string) { t.Errorf("seed %d: %s", seed, what) })
	binary := filepath.Join(t.TempDir(), "without-rules.test")
	build := exec.Command("go", "test", "-c", "-overlay", overlay(t), "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the engine with rules that can be taken out: %v\n%s", err, out)
	}
	for _, name := range tracedRules {
		if !slices.ContainsFunc(allRules(), func(r rule) bool { return r.name == name }) {
			t.Fatalf("there is no rule %q to take out", name)
		}
		out, err := exec.Command(binary, "-test.run", "^TestWriteTracesWithoutRule$", "-rules.off", "-trace.rule="+name, "-trace.seeds", fmt.Sprint(*traceSeeds),
			"-trace.dir", filepath.Join(*traceDir, "without", strings.ReplaceAll(name, " ", "-"))).CombinedOutput()
		if err != nil {
			t.Errorf("without the rule %q: %v\n%s", name, err, out)
		}
	}
}

func TestWriteTracesWithoutRule(t *testing.T) {
	if !*ruleOffFlag || *traceRule == "" {
		t.Skip("run by TestWriteTraces")
	}
	ruleOff = *traceRule
	writeTraces(t, *traceDir, func(uint64, string) {}) // that it goes wrong is what it is for
}
