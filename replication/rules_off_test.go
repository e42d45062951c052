package replication

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// How rules are taken out of the engine, which knows nothing of it: the sources are edited, and built again under the go command's -overlay
// together with these tests. In that build, ruleOff names the rule that does not hold.

// rule is a rule of the protocol, and the proof that it is needed.
type rule struct {
	name  string
	edits []edit
	shows func(t *testing.T) string // runs something, and tells how it went
	// rare rules are missed only where several things come together, and take long to show: `make mutate`.
	rare  bool
	duels bool   // viewRules: the simulation of duels shows it
	after uint64 // viewRules: the seed after which to look, where what is missed is missed once in thousands; one that is near has been found by trying more
	finds string // regular expression that this matches without the rule, and only then
}

// edit is a place in the engine. In `without`, which takes the place of text, the word off stands for: the rule is taken out.
type edit struct{ file, text, without string }

var ruleOff string

var rulesOnly = flag.String("rules.only", "", "TestRules: only rules whose names match this regular expression")

var ruleOffFlag = flag.Bool("rules.off", false, "TestWithoutRules: this is a build whose rules can be taken out (TestRules runs it)")

// TestRules shows of each rule that nothing goes wrong with it, and then, in a build of its own, what goes wrong without it.
func TestRules(t *testing.T) {
	for _, r := range chosenRules() {
		t.Run(r.name, func(t *testing.T) {
			if got := r.shows(t); regexp.MustCompile(r.finds).MatchString(got) {
				t.Errorf("this was to go wrong only without the rule:\n%s", got)
			}
		})
	}
	if t.Failed() || *ruleOffFlag {
		return
	}
	binary := filepath.Join(t.TempDir(), "without-rules.test")
	build := exec.Command("go", "test", "-c", "-overlay", overlay(t), "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the engine with rules that can be taken out: %v\n%s", err, out)
	}
	out, err := exec.Command(binary, "-test.run", "^TestWithoutRules$", "-test.v", "-rules.off", "-rules.only="+*rulesOnly, fmt.Sprint("-sim.mutate=", *simMutate)).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else if testing.Verbose() {
		t.Logf("without the rules:\n%s", out)
	}
}

// TestWithoutRules takes each rule out in turn, and fails where nothing goes wrong.
func TestWithoutRules(t *testing.T) {
	if !*ruleOffFlag {
		t.Skip("run by TestRules")
	}
	for _, r := range chosenRules() {
		t.Run(r.name, func(t *testing.T) {
			ruleOff = r.name
			defer func() { ruleOff = "" }()
			got := r.shows(t)
			if !regexp.MustCompile(r.finds).MatchString(got) {
				t.Fatalf("without the rule, this was to go wrong (%s), and did not:\n%s", r.finds, got)
			}
			t.Log(got)
		})
	}
}

func chosenRules() []rule {
	only := regexp.MustCompile(*rulesOnly)
	return slices.DeleteFunc(allRules(), func(r rule) bool { return !only.MatchString(r.name) || r.rare && *simMutate == 0 })
}

// overlay edits copies of the engine's sources, and returns the file that tells the go command to build those.
func overlay(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	sources := map[string]string{}
	for _, r := range allRules() {
		for _, e := range r.edits {
			source, ok := sources[e.file]
			if !ok {
				text, err := os.ReadFile(e.file)
				if err != nil {
					t.Fatal(err)
				}
				source = string(text)
			}
			if n := strings.Count(source, e.text); n != 1 {
				t.Fatalf("rule %q: %s has this text %d times, not once; the engine has changed, and the rule's edit has to follow it:\n%s", r.name, e.file, n, e.text)
			}
			off := "(ruleOff == " + strconv.Quote(r.name) + ")"
			sources[e.file] = strings.Replace(source, e.text, offWord.ReplaceAllString(e.without, off), 1)
		}
	}
	replace := map[string]string{}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for file, source := range sources {
		edited := filepath.Join(dir, file)
		if err := os.WriteFile(edited, []byte(source), 0o666); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(here, file)] = edited
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, text, 0o666); err != nil {
		t.Fatal(err)
	}
	return file
}

var offWord = regexp.MustCompile(`\boff\b`)

// explores returns a show that explores a small configuration, in which only what clients can see counts: requests as in the names
// of explorations.
func explores(replicas int, before prologue, requests string, options ...func(*exploration)) func(*testing.T) string {
	return func(t *testing.T) string {
		x := exploration{replicas: replicas, prologue: before.requests, clientsOnly: true, limit: 300_000}
		for _, word := range strings.Fields(requests) {
			at, what, _ := strings.Cut(word, ":")
			q := of(what)[0]
			q.at = int(at[0] - 'a')
			x.requests = append(x.requests, q)
		}
		x.requests = distinct(x.requests)
		for _, option := range options {
			option(&x)
		}
		res := x.run()
		if res.limited {
			t.Errorf("%s: more than %d states", x.name(), x.limit)
		}
		return fmt.Sprintf("%s: %v", x.name(), res)
	}
}

func breaks(n int) func(*exploration) { return func(x *exploration) { x.breaks = n } }
func lates(n int) func(*exploration)  { return func(x *exploration) { x.lates = n } }

func unordered(x *exploration) { x.unordered = true }

// plays returns a show that plays a scenario, whatever its outcome.
func plays(name string) func(*testing.T) string {
	return func(t *testing.T) string {
		text, err := os.ReadFile(filepath.Join("testdata", name+".txt"))
		if err != nil {
			t.Fatal(err)
		}
		var s scenario
		var out strings.Builder
		lines := strings.Split(string(text), "\n")
		for i := 0; i < len(lines); i++ {
			switch line := lines[i]; {
			case line == "" || strings.HasPrefix(line, "#"):
			case line == "----":
				i += max(0, slices.Index(lines[i:], ""))
			default:
				s.run(t, fmt.Sprintf("%s.txt:%d", name, i+1), line)
				out.WriteString(s.out.String())
				s.out.Reset()
			}
		}
		return out.String()
	}
}
