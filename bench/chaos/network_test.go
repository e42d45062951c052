package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestRulesText: an nft script replaces what was in force, and spares the clients' namespace.
func TestRulesText(t *testing.T) {
	for _, test := range []struct {
		name  string
		rules Rules
		want  []string
	}{
		{"none", Rules{}, nil},
		{"from two", Rules{DropFrom: []int{2, 3}}, []string{`iifname "repl" ip saddr 10.99.1.2 drop`, `iifname "repl" ip saddr 10.99.1.3 drop`}},
		{"loss", Rules{LossPer: 4}, []string{`iifname "repl" ip saddr != 10.99.1.254 numgen random mod 100 < 4 drop`}},
		{"slow", Rules{SlowFrom: []int{1, 3}, SlowKB: 128},
			[]string{`iifname "repl" ip saddr { 10.99.1.1, 10.99.1.3 } limit rate over 128 kbytes/second burst 32 kbytes drop`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := "flush chain inet chaos in\n"
			for _, rule := range test.want {
				want += "add rule inet chaos in " + rule + "\n"
			}
			if got := test.rules.text(); got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

// TestRulesOf: where and what a fault drops. Every fault heals by taking away what it has put in force, and leaves what others have.
func TestRulesOf(t *testing.T) {
	sh := shape(t, "3")
	drops := func(f Fault) map[int][]int {
		all := map[int][]int{}
		for at, r := range rulesOf(&f, sh) {
			all[at] = r.DropFrom
		}
		return all
	}
	for _, test := range []struct {
		fault Fault
		want  map[int][]int
	}{
		{Fault{Kind: Deaf, Victims: []int{2}}, map[int][]int{2: {1, 3}}},
		{Fault{Kind: Mute, Victims: []int{2}}, map[int][]int{1: {2}, 3: {2}}},
		{Fault{Kind: Partial, Victims: []int{1, 3}}, map[int][]int{1: {3}, 3: {1}}},
		{Fault{Kind: PartialOne, Victims: []int{1, 3}}, map[int][]int{1: {3}}},
	} {
		got := drops(test.fault)
		if len(got) != len(test.want) {
			t.Errorf("%v: %v, want %v", test.fault, got, test.want)
		}
		for at, from := range test.want {
			if !slices.Equal(got[at], from) {
				t.Errorf("%v: at %d it drops what %v send, want %v", test.fault, at, got[at], from)
			}
		}
	}
	both := Rules{DropFrom: []int{1}}.add(Rules{LossPer: 3}).add(Rules{DropFrom: []int{2}, LossPer: 1})
	if !slices.Equal(both.DropFrom, []int{1, 2}) || both.LossPer != 3 {
		t.Errorf("two faults together give %+v", both)
	}
}

// TestNetworkCommands: every command that makes the network names a namespace of the run; nothing is made in the namespace that this program
// was started in.
func TestNetworkCommands(t *testing.T) {
	n := Network{Prefix: "hermesd-chaos-7", Replicas: 2}
	names := n.namespaces()
	if !slices.Equal(names, []string{"hermesd-chaos-7-hub", "hermesd-chaos-7-clients", "hermesd-chaos-7-r1", "hermesd-chaos-7-r2"}) {
		t.Errorf("namespaces: %v", names)
	}
	commands := append(n.createCommands(), n.cableCommand(1, true))
	for _, c := range commands {
		text := strings.Join(c, " ")
		switch {
		case len(c) == 5 && c[1] == "netns" && c[2] == "add" && slices.Contains(names, c[3]):
		case strings.HasPrefix(text, "ip netns add ") && slices.Contains(names, c[3]):
		case strings.HasPrefix(text, "ip -n ") && slices.Contains(names, c[2]):
		case strings.HasPrefix(text, "ip netns exec ") && slices.Contains(names, c[3]):
		default:
			t.Errorf("%q is not in a namespace of the run", text)
		}
	}
}

// TestMissing: what the machine lacks is said all at once, in words.
func TestMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := missing(&options{hermesd: "no/such/hermesd"})
	if err == nil {
		t.Fatal("nothing is missing")
	}
	for _, want := range []string{"install iproute2", "install nftables", "no hermesd at no/such/hermesd"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
}

// TestPlaceLock: a place is in use as long as its lock is held, and not longer.
func TestPlaceLock(t *testing.T) {
	dir := t.TempDir()
	lock, held, err := lockPlace(dir)
	if err != nil || held {
		t.Fatalf("a fresh place: held %v, %v", held, err)
	}
	if _, held, err := lockPlace(dir); err != nil || !held {
		t.Errorf("a place in use: held %v, %v", held, err)
	}
	lock.Close()
	again, held, err := lockPlace(dir)
	if err != nil || held {
		t.Errorf("a place whose process is gone: held %v, %v", held, err)
	}
	again.Close()
}

// TestReplicaProcess: what ends a process that nobody has told to end is noticed, and what was meant to end is not.
func TestReplicaProcess(t *testing.T) {
	start := func(script string) *Replica {
		r := &Replica{Number: 1, logPath: filepath.Join(t.TempDir(), "log")}
		r.process = &process{cmd: exec.Command("sh", "-c", script), ended: make(chan struct{})}
		if err := r.process.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { r.process.end(r.process.cmd.Wait()) }()
		t.Cleanup(r.Kill)
		return r
	}
	r := start("exit 3")
	<-r.process.ended
	if err := r.Fallen(); err == nil || !strings.Contains(err.Error(), "ended by itself") {
		t.Errorf("a process that ended with status 3: %v", err)
	}
	r.forgive = true
	if err := r.Fallen(); err != nil {
		t.Errorf("the same, forgiven: %v", err)
	}
	r = start("exec sleep 600")
	if err := r.Fallen(); err != nil || !r.Running() {
		t.Errorf("a process that runs: running %v, %v", r.Running(), err)
	}
	r.Kill()
	if err := r.Fallen(); err != nil || r.Running() {
		t.Errorf("a process that was killed: running %v, %v", r.Running(), err)
	}
	r = start("exec sleep 600")
	if err := r.Stop(); err == nil {
		t.Error("SIGTERM ended the process without status 0, and nobody says so")
	}
}

// TestFullDisk fills a directory on a small disk, which takes root.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a disk takes root; make chaos needs it too")
	}
	p := &Place{dir: t.TempDir()}
	if err := p.mountDisks(); err != nil {
		t.Skipf("this machine does not let root mount a disk, as containers may not: %v", err)
	}
	r := &Replica{Number: 2, disk: p.disk(2)}
	t.Cleanup(func() {
		for number := range maxReplicas + 1 {
			_ = exec.Command("umount", p.disk(number+1)).Run()
		}
	})
	probe := filepath.Join(r.disk, "probe")
	write := func() error { return os.WriteFile(probe, []byte("x"), 0o600) }
	if err := r.FillDisk(); err != nil {
		t.Fatal(err)
	}
	if err := write(); err == nil {
		t.Error("a full disk takes more")
	}
	if err := errors.Join(r.EmptyDisk(), write()); err != nil {
		t.Errorf("after it was emptied: %v", err)
	}
	if err := r.Wipe(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(r.disk); len(left) > 0 {
		t.Errorf("a wiped disk holds %v", left)
	}
}

func TestReportTable(t *testing.T) {
	var r Report
	one := Episode{Faults: []Fault{{Kind: Kill}}}
	for i := range 3 {
		r.add(one, Stalls{Writes: time.Duration(i+1) * 100 * time.Millisecond, Reads: time.Millisecond, Healing: time.Second, Unstruck: 2})
	}
	r.add(Episode{Faults: []Fault{{Kind: Partial}, {Kind: Loss}}}, Stalls{Healing: 2 * time.Second})
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	kill, both := strings.Fields(lines[len(lines)-2]), strings.Join(strings.Fields(lines[len(lines)-1]), " ")
	if want := strings.Fields("kill 3 200 300 300 1 1 1 0 0 0 1000 1000 1000"); !slices.Equal(kill, want) {
		t.Errorf("got %v, want %v", kill, want)
	}
	if want := "partial + another 1 - - - - - - - - - 2000 2000 2000"; both != want {
		t.Errorf("got %q, want %q", both, want)
	}
}
