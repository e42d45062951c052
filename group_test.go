package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hermesd/bench/livetest"
	"hermesd/replication/views"
)

// TestReplaceAMachine does what docs/operating.md says for replacing a machine: a fourth replica is added, serves, and the first one is removed. No
// item is lost, and the group that is left goes on. Then a replica is restarted in the rolling way.
func TestReplaceAMachine(t *testing.T) {
	const replicas, items = 3, 200
	g := livetest.StartGroup(t, livetest.GroupConfig{Replicas: replicas})
	at := g.Replication[1]
	for i := range items {
		if got := command(t, portOf(t, g.Clients[i%replicas]), fmt.Sprintf("set k%d 0 0 %d\r\n%d", i, len(strconv.Itoa(i)), i)); got != "STORED" {
			t.Fatalf("set %d: %s", i, got)
		}
	}
	ports := livetest.FreePorts(t, 2)
	address := livetest.Loopback(ports + 1)
	groupCommandOK(t, "add", "4="+address, "--at", at)
	args := append([]string{"-p", strconv.Itoa(ports), "--id", "4", "--group", "4=" + address + ",2=" + at, "--data-dir", t.TempDir()}, livetest.Patient...)
	fourth := livetest.Start(t, livetest.Binary(t), args...)
	groupCommandOK(t, "status", "--wait", "4", "--at", at)
	groupCommandOK(t, "remove", "1", "--at", at)
	g.Processes[0].Signal(t, os.Kill)
	g.Processes[0].Wait(t)
	out := groupCommandOK(t, "status", "--wait", "serving", "--at", g.Replication[0]+","+at)
	if strings.Contains(out, g.Replication[0]) || strings.Count(out, " serving ") != replicas {
		t.Errorf("after the replacement:\n%s", out)
	}
	for i := range items {
		want := fmt.Sprintf("VALUE k%d 0 %d\r\n%d\r\nEND", i, len(strconv.Itoa(i)), i)
		if got := command(t, ports, fmt.Sprintf("get k%d", i)); got != want {
			t.Fatalf("get k%d from the new replica: %s", i, got)
		}
	}
	g.Processes[2].Stop(t)
	if got := command(t, ports, "set after 0 0 1\r\nx"); got != "STORED" {
		t.Errorf("set right after a replica has left: %s", got)
	}
	g.Restart(t, 3)
	groupCommandOK(t, "status", "--wait", "serving", "--at", at)
	if got := command(t, portOf(t, g.Clients[2]), "get after"); got != "VALUE after 0 1\r\nx\r\nEND" {
		t.Errorf("get from the replica that came back: %s", got)
	}
	fourth.Stop(t)
}

// TestGroupOfTwoWithWitness: one of two replicas dies, and the other goes on, since the witness has voted for it. The dead one returns, or is removed.
func TestGroupOfTwoWithWitness(t *testing.T) {
	g := livetest.StartGroup(t, livetest.GroupConfig{Replicas: 2, Witness: true})
	client := portOf(t, g.Clients[0])
	if got := command(t, client, "set k 0 0 1\r\n1"); got != "STORED" {
		t.Fatal(got)
	}
	g.Processes[1].Signal(t, os.Kill)
	g.Processes[1].Wait(t)
	if got := command(t, client, "set k 0 0 1\r\n2"); got != "STORED" {
		t.Errorf("set with one replica and the witness: %s", got)
	}
	g.Restart(t, 2)
	groupCommandOK(t, "status", "--wait", "serving", "--at", g.Replication[0])
	if got := command(t, portOf(t, g.Clients[1]), "get k"); got != "VALUE k 0 1\r\n2\r\nEND" {
		t.Errorf("get from the replica that came back: %s", got)
	}
	// It dies again, and is to be removed. Of the two servers that are left, the witness answers, so nothing is in the way.
	g.Processes[1].Signal(t, os.Kill)
	g.Processes[1].Wait(t)
	groupCommandOK(t, "remove", "2", "--at", g.Replication[0])
	out := groupCommandOK(t, "status", "--wait", "serving", "--at", g.Replication[0])
	if strings.Contains(out, "does not answer") || !strings.Contains(out, " witness ") {
		t.Errorf("after the removal:\n%s", out)
	}
}

// TestJoinerWithTooLittleMemory: without evictions (-M), a third replica with less memory (-m) than the pair already holds is not let in, or no set would find room
// any more. The status has the numbers; with as much as the others have it joins.
func TestJoinerWithTooLittleMemory(t *testing.T) {
	const items, itemBytes = 80, 500_000
	g := livetest.StartGroup(t, livetest.GroupConfig{Replicas: 2, Args: []string{"-m", "64", "-M"}})
	at, client := g.Replication[0], portOf(t, g.Clients[0])
	for i := range items {
		if got := command(t, client, fmt.Sprintf("set k%d 0 0 %d\r\n%s", i, itemBytes, strings.Repeat("x", itemBytes))); got != "STORED" {
			t.Fatalf("set %d: %s", i, got)
		}
	}
	ports := livetest.FreePorts(t, 2)
	address, dir := livetest.Loopback(ports+1), t.TempDir()
	groupCommandOK(t, "add", "3="+address, "--at", at)
	start := func(memoryMB string) *livetest.Process {
		args := append([]string{"-p", strconv.Itoa(ports), "--id", "3", "--group", "3=" + address + ",1=" + at, "--data-dir", dir, "-m", memoryMB, "-M"}, livetest.Patient...)
		return livetest.Start(t, livetest.Binary(t), args...)
	}
	small := start("32")
	for told := false; !told; {
		out := groupCommandOK(t, "status", "--at", at)
		told = regexp.MustCompile(`(?m)^3 .* joining .*it has too little memory: of its 32 MB .* start it with -m 64`).MatchString(out)
		if strings.Contains(out, "catching up") {
			t.Fatalf("it has been let in:\n%s", out)
		}
	}
	if got := command(t, client, "set after 0 0 1\r\nx"); got != "STORED" {
		t.Errorf("set while the third one asks to join: %s", got)
	}
	small.Stop(t)
	start("64")
	groupCommandOK(t, "status", "--wait", "3", "--at", at)
	if got := command(t, client, "set after 0 0 1\r\ny"); got != "STORED" {
		t.Errorf("set when the third one serves: %s", got)
	}
}

// TestWaitGivesUp: status --wait says what is missing, with a status of its own.
func TestWaitGivesUp(t *testing.T) {
	g := livetest.StartGroup(t, livetest.GroupConfig{Replicas: 3})
	g.Processes[2].Signal(t, os.Kill)
	g.Processes[2].Wait(t)
	command(t, portOf(t, g.Clients[0]), "set k 0 0 1\r\n1") // waits until the group has gone on
	p := livetest.Start(t, livetest.Binary(t), "group", "status", "--wait", "serving", "--timeout", "1s", "--at", g.Replication[0])
	if status := p.Wait(t); status != exitNotYet || !strings.Contains(p.Stderr(), "replica 3 is absent") {
		t.Errorf("status %d:\n%s", status, p.Output())
	}
}

// TestRemoveKeepsAMajority: of three, one of which is dead, no live one can be removed, since the other could do nothing any more; first the dead one, then a
// live one.
func TestRemoveKeepsAMajority(t *testing.T) {
	g := livetest.StartGroup(t, livetest.GroupConfig{Replicas: 3})
	at := g.Replication[0]
	g.Processes[2].Signal(t, os.Kill)
	g.Processes[2].Wait(t)
	refused := func() string {
		p := livetest.Start(t, livetest.Binary(t), "group", "remove", "2", "--at", at)
		if p.Wait(t) == 0 {
			t.Fatalf("replica 2 was removed, though 3 is dead:\n%s", p.Output())
		}
		return p.Stderr()
	}
	for missed := false; !missed; {
		var s views.GroupStatus
		if err := json.Unmarshal([]byte(groupCommandOK(t, "status", "--json", "--at", at)), &s); err != nil {
			t.Fatal(err)
		}
		dead, _ := s.Slot(3)
		missed = s.Leader != 0 && dead.State == "absent" && (dead.Reached < 0 || dead.Reached > 3500*time.Millisecond) // more than twice --suspect-after
	}
	if why := refused(); !strings.Contains(why, "start or remove 3 first") {
		t.Errorf("the removal was refused: %s", why)
	}
	groupCommandOK(t, "remove", "3", "--at", at)
	groupCommandOK(t, "remove", "2", "--at", at)
	if got := command(t, portOf(t, g.Clients[0]), "set k 0 0 1\r\n1"); got != "STORED" {
		t.Errorf("set on the one that is left: %s", got)
	}
}

// TestStatusSaysHowMessagesGo: each replica's channels, as it knows them itself, and why they are not what somebody may have expected.
func TestStatusSaysHowMessagesGo(t *testing.T) {
	g := livetest.StartGroup(t, livetest.GroupConfig{Replicas: 2, Witness: true, Args: []string{"--transport", "tcp"}})
	out := groupCommandOK(t, "status", "--wait", "serving", "--at", g.Replication[0])
	for _, row := range []string{`(?m)^1 .* serving .* tcp to 2 *$`, `(?m)^2 .* serving .* tcp to 1 *$`, `(?m)^3 .* witness .* - *$`,
		`(?m)^tcp, 1 to 2, 2 to 1: it runs with --transport tcp$`} {
		if !regexp.MustCompile(row).MatchString(out) {
			t.Errorf("nothing like %s in\n%s", row, out)
		}
	}
	stop(t, g.Processes[1]) // it does not answer, and holds up nothing for long
	defer g.Processes[1].Signal(t, syscall.SIGCONT)
	if out := groupCommandOK(t, "status", "--at", g.Replication[0]); strings.Contains(out, "2 to 1") {
		t.Errorf("of a replica that does not answer:\n%s", out)
	}
}

// stop has a process stand still. The signal arrives some time after it was sent, and at one thread after the other.
func stop(t *testing.T, p *livetest.Process) {
	t.Helper()
	p.Signal(t, syscall.SIGSTOP)
	if runtime.GOOS != "linux" {
		return // there is no /proc to see it in
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.PID()))
		if err != nil || len(threads) == 0 {
			t.Fatalf("the threads of process %d: %v", p.PID(), err)
		}
		running := 0
		for _, file := range threads {
			// PID (NAME) STATE ...
			if b, err := os.ReadFile(file); err == nil && !bytes.Contains(b, []byte(") T ")) {
				running++
			}
		}
		if running == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d threads of process %d have not stopped", running, p.PID())
		}
	}
}

// TestChannelsInWords: replicas that reach some by RDMA and some by TCP, for different reasons.
func TestChannelsInWords(t *testing.T) {
	const why, slow = "its port is not active", "it was the second choice"
	slots := []views.SlotStatus{
		{Number: 1, Channels: []views.Channel{{Peer: 2, Transport: "rdma rxe1 - rxe2"}, {Peer: 3, Transport: "tcp", Reason: why}, {Peer: 4, Transport: "tcp"}}},
		{Number: 3, Channels: []views.Channel{{Peer: 1, Transport: "tcp", Reason: why}}},
		{Number: 5},
		{Number: 6, Channels: []views.Channel{{Peer: 7, Transport: "rdma rxe1 - rxe2", Reason: slow}, {Peer: 8, Transport: "tcp", Reason: slow}}},
	}
	for i, want := range []string{"rdma rxe1 - rxe2 to 2, tcp to 3,4", "tcp to 1", "-"} {
		if got := channels(&slots[i]); got != want {
			t.Errorf("replica %d: %q, want %q", slots[i].Number, got, want)
		}
	}
	var out strings.Builder
	printReasons(&out, slots)
	if want := "rdma rxe1 - rxe2, 6 to 7: " + slow + "\ntcp, 6 to 8: " + slow + "\ntcp, 1 to 3, 3 to 1: " + why + "\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

func groupCommandOK(t *testing.T, args ...string) string {
	t.Helper()
	p := livetest.Start(t, livetest.Binary(t), append([]string{"group"}, args...)...)
	if status := p.Wait(t); status != 0 {
		t.Fatalf("hermesd group %s: status %d:\n%s", strings.Join(args, " "), status, p.Output())
	}
	return p.Stdout()
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	port, err := strconv.Atoi(address[strings.LastIndex(address, ":")+1:])
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// TestNotServing: what --wait serving waits for, and how it says so.
func TestNotServing(t *testing.T) {
	for _, c := range []struct {
		slot views.SlotStatus
		want string
	}{
		{views.SlotStatus{Number: 2, State: "serving", Entered: 7, Leased: true}, ""},
		{views.SlotStatus{Number: 2, State: "serving", Entered: 6, Leased: true}, "replica 2 has not entered the present view"},
		{views.SlotStatus{Number: 2, State: "serving", Entered: 7}, "replica 2 has no lease yet"},
		{views.SlotStatus{Number: 2, State: "serving", Entered: 7, Leased: true, Heard: 2 * time.Second}, "replica 2 has not been heard since"},
		{views.SlotStatus{Number: 2, State: "serving", Entered: 7, Leased: true, Why: "it has been started again"},
			"replica 2 is about to leave the view: it has been started again"},
		{views.SlotStatus{Number: 2, State: "catching up", Entered: 7}, "replica 2 is catching up"},
		{views.SlotStatus{Number: 2, State: "witness", Witness: true}, ""},
		{views.SlotStatus{Number: 2, State: "witness", Witness: true, Why: "it does not answer"}, "replica 2 is a witness: it does not answer"},
	} {
		if got := notServing(&views.GroupStatus{Leader: 1, Epoch: 7}, c.slot, time.Second); got != c.want {
			t.Errorf("%+v: %q, want %q", c.slot, got, c.want)
		}
	}
	note := "the group has no leader: 2 of its 3 servers must be running"
	if got := notServing(&views.GroupStatus{Note: note}, views.SlotStatus{Number: 2, State: "unknown"}, 0); got != note {
		t.Errorf("without a leader: %q", got)
	}
}

// TestStatsReplicationIsDocumented: docs/protocol.md has the names that a replica of a group gives, and only those.
func TestStatsReplicationIsDocumented(t *testing.T) {
	g := livetest.StartGroup(t, livetest.GroupConfig{Replicas: 3})
	numbers := regexp.MustCompile(`:[0-9]+`)
	given := map[string]bool{"reason": true} // unless it serves
	for line := range strings.Lines(command(t, portOf(t, g.Clients[0]), "stats replication")) {
		if fields := strings.Fields(line); len(fields) > 1 {
			given[numbers.ReplaceAllString(fields[1], ":N")] = true
		}
	}
	text, err := os.ReadFile("docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| name | |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	documented := make(map[string]bool)
	var counters []string // of the transport, that come in all and by peer
	for line := range strings.Lines(table) {
		cell := strings.Split(line, "|")[1]
		names := regexp.MustCompile("`([^`]*)`").FindAllStringSubmatch(cell, -1)
		for _, name := range names {
			switch {
			case !strings.Contains(cell, "`transport_*`"):
				documented[name[1]] = true
			case !strings.Contains(name[1], "*"):
				counters = append(counters, name[1])
			}
		}
	}
	for _, name := range counters {
		for _, prefix := range []string{"transport_", "peer:N:"} {
			documented[prefix+name] = true
		}
	}
	for name := range given {
		if !documented[name] {
			t.Errorf("%s is not in docs/protocol.md", name)
		}
	}
	for name := range documented {
		if !given[name] {
			t.Errorf("%s is in docs/protocol.md, and not in stats", name)
		}
	}
}
