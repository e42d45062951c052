package livetest

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// GroupConfig describes a group of replicas, each a process.
type GroupConfig struct {
	Replicas int
	// Proxied puts a proxy before the replication address of each replica, for Group.Cut.
	Proxied bool
	// Witness adds a witness, under the number after the last replica's. It is the last of Group.Processes.
	Witness bool
	// TraceDir, unless empty, is where each replica writes its --trace: N.ndjson.
	TraceDir string
	// Args are further arguments of every replica. They come after Patient, which a replica of a group is given too.
	Args []string
}

// Patient are arguments for groups whose replicas are not to lose their leases: with the default times that happens where something else keeps the
// processor for a quarter of a second, as on a machine that runs other tests. A replica that is killed is removed all the later, and operations
// wait for that.
var Patient = []string{"--heartbeat", "150ms", "--lease", "1500ms", "--suspect-after", "1650ms", "--unreachable-after", "2s",
	"--op-timeout", "20s"}

// Group is a group of replicas that serves.
type Group struct {
	// Clients are the addresses for clients, and Processes the replicas, in the order of their numbers, which count from 1.
	Clients   []string
	Processes []*Process
	// Replication are the replication addresses of the replicas, for `hermesd group`.
	Replication []string
	binary      string
	args        [][]string // of the processes
	proxies     []*proxy   // by replica, if proxied
}

// StartGroup starts a group and waits until all of it serves. It is ended with the test.
func StartGroup(t testing.TB, cfg GroupConfig) *Group {
	t.Helper()
	const attempts = 5
	for attempt := 1; ; attempt++ {
		g, taken := tryGroup(t, cfg)
		if !taken {
			return g
		}
		if attempt == attempts {
			t.Fatalf("ports are taken between our look and the replicas', %d times", attempts)
		}
		g.Kill()
	}
}

// tryGroup starts a group on ports that are free. taken: they were not any more.
func tryGroup(t testing.TB, cfg GroupConfig) (g *Group, taken bool) {
	t.Helper()
	g = &Group{binary: Binary(t)}
	n, replicas := cfg.Replicas, cfg.Replicas
	if cfg.Witness {
		n++
	}
	first := FreePorts(t, 2*n)
	addresses := make([]int, n) // what --group says
	for i := range n {
		addresses[i] = first + n + i
		if cfg.Proxied {
			p := newProxy(t, Loopback(first+n+i))
			g.proxies, addresses[i] = append(g.proxies, p), p.port()
		}
	}
	for i := range n {
		args := []string{"--port", strconv.Itoa(first + i)}
		if n > 1 {
			args = append(args, "--id", strconv.Itoa(i+1), "--group", groupText(addresses), "--data-dir", t.TempDir())
			args = append(args, Patient...)
		}
		if cfg.TraceDir != "" {
			args = append(args, "--trace", filepath.Join(cfg.TraceDir, fmt.Sprintf("%d.ndjson", i+1)))
		}
		if cfg.Proxied {
			args = append(args, "--replication-address", Loopback(first+n+i))
		}
		if i >= replicas {
			args = append(args, "--witness")
		} else {
			g.Clients = append(g.Clients, Loopback(first+i))
			g.Replication = append(g.Replication, Loopback(addresses[i]))
		}
		g.args = append(g.args, append(args, cfg.Args...))
		g.Processes = append(g.Processes, Start(t, g.binary, g.args[i]...))
	}
	for _, p := range g.Processes[:replicas] {
		if !p.serves(t) {
			return g, true
		}
	}
	return g, false
}

// serving is in the log of a replica when it serves.
const serving = `"message":"serving"`

// serves waits until a replica serves. It returns false if a port was taken.
func (p *Process) serves(t testing.TB) bool {
	t.Helper()
	if p.reachesStderr(t, serving) {
		return true
	}
	if !strings.Contains(p.Stderr(), "address already in use") {
		t.Fatalf("%s ended with status %d:\n%s", p, p.status, p.Output())
	}
	return false
}

// Kill ends all replicas at once, by SIGKILL.
func (g *Group) Kill() {
	for _, p := range g.Processes {
		p.kill()
	}
}

// Stop ends all replicas by SIGTERM. Each must end with status 0.
func (g *Group) Stop(t testing.TB) {
	t.Helper()
	for _, p := range g.Processes {
		p.Stop(t)
	}
}

// Restart starts the replica of a number again, which has ended. It does not wait for it to serve.
func (g *Group) Restart(t testing.TB, number int) {
	t.Helper()
	g.Processes[number-1] = Start(t, g.binary, g.args[number-1]...)
}

// AwaitServing waits until the replica of a number serves for the first time since it was started.
func (g *Group) AwaitServing(t testing.TB, number int) {
	t.Helper()
	g.Processes[number-1].AwaitStderr(t, serving)
}

// Cut resets one of the connections between replicas, so that bytes under way are lost in both directions. draw chooses: it returns a number
// from 0 to n-1. Cut returns false if there is no connection at the moment.
func (g *Group) Cut(draw func(n int) int) bool {
	first := draw(len(g.proxies))
	for i := range g.proxies {
		if g.proxies[(first+i)%len(g.proxies)].cut(draw) {
			return true
		}
	}
	return false
}
