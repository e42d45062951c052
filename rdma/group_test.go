//go:build rdma

package rdma_test

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"hermesd/bench/livetest"
)

// These tests run hermesd as three processes on three RDMA devices. rdma/test gives them a binary.

var costSets = flag.Int("rdma.cost", 0, "sets of each measurement of TestCost; 0: it is skipped")

const replicas = 3

// liveGroup is hermesd's processes, on 10.77.0.1 to 3.
type liveGroup struct {
	t         *testing.T
	binary    string
	dirs      [replicas + 1]string
	processes [replicas + 1]*livetest.Process
	clients   [replicas + 1]*memcache.Client
}

func host(number int) string   { return "10.77.0." + strconv.Itoa(number) }
func client(number int) string { return host(number) + ":11211" }
func at(number int) string     { return host(number) + ":11311" }

// needGroup skips a test where there is not what a group needs.
func needGroup(t *testing.T) (binary string) {
	t.Helper()
	binary = os.Getenv("HERMESD_RDMA_BINARY")
	if binary == "" || os.Getenv("RDMA_DEVICES") != strconv.Itoa(replicas) {
		t.Skip("needs three RDMA devices and a binary: make test-rdma")
	}
	return binary
}

func startLive(t *testing.T, args ...string) *liveGroup {
	t.Helper()
	binary := needGroup(t)
	g := &liveGroup{t: t, binary: binary}
	for number := 1; number <= replicas; number++ {
		g.dirs[number] = t.TempDir()
		g.start(number, args...)
	}
	g.awaitServing("serving")
	return g
}

// start starts a replica. Emulation is slow, and a replica must not be removed for that.
func (g *liveGroup) start(number int, args ...string) {
	all := append([]string{"-l", host(number), "-m", "64", "--id", strconv.Itoa(number), "--data-dir", g.dirs[number],
		"--group", "1=" + at(1) + ",2=" + at(2) + ",3=" + at(3), "--heartbeat", "500ms", "--lease", "4s", "--suspect-after", "4500ms",
		"--election-timeout", "1s", "--unreachable-after", "20s", "--op-timeout", "30s"}, args...)
	g.processes[number] = livetest.Start(g.t, g.binary, all...)
	g.clients[number] = memcache.New(client(number)) // without connections to the process before
	g.clients[number].Timeout = time.Minute
}

// awaitServing waits until replica number, or all (serving), serve, and returns what `group status` says then.
func (g *liveGroup) awaitServing(what string) (status string) {
	g.t.Helper()
	ask := at(1) + "," + at(2) + "," + at(3)
	out, err := exec.Command(g.binary, "group", "status", "--wait", what, "--timeout", "60s", "--at", ask).CombinedOutput()
	if err != nil {
		text := string(out)
		for number := 1; number <= replicas; number++ {
			text += fmt.Sprintf("\nreplica %d:\n%s", number, g.processes[number].Output())
		}
		g.t.Fatalf("waiting for %s: %v\n%s", what, err, text)
	}
	// The view says that they serve; each has a lease a moment later.
	for number := 1; number <= replicas; number++ {
		for deadline := time.Now().Add(time.Minute); g.stats(number)["state"] != "serving"; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				g.t.Fatalf("replica %d does not serve:\n%s", number, g.processes[number].Output())
			}
		}
	}
	return string(out)
}

// stats are those of replication.
func (g *liveGroup) stats(number int) map[string]string {
	g.t.Helper()
	conn, err := net.Dial("tcp", client(number))
	if err != nil {
		g.t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "stats replication\r\n")
	all := make(map[string]string)
	for lines := bufio.NewScanner(conn); lines.Scan() && lines.Text() != "END"; {
		if f := strings.SplitN(lines.Text(), " ", 3); len(f) == 3 {
			all[f[1]] = f[2]
		}
	}
	return all
}

func (g *liveGroup) count(number int, name string) int {
	g.t.Helper()
	text := g.stats(number)[name]
	n, err := strconv.Atoi(text)
	if err != nil {
		g.t.Fatalf("replica %d: stats replication: %s is %q", number, name, text)
	}
	return n
}

// awaitTransport waits until a replica says that it reaches a peer so.
func (g *liveGroup) awaitTransport(number, peer int, want string) (reason string) {
	g.t.Helper()
	name := fmt.Sprintf("peer:%d:transport", peer)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		s := g.stats(number)
		if s[name] == want {
			return s[name+"_reason"]
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("replica %d reaches %d by %q because %q instead of by %s\n%s", number, peer, s[name], s[name+"_reason"], want, g.processes[number].Output())
		}
	}
}

func (g *liveGroup) allByRDMA() {
	g.t.Helper()
	for number := 1; number <= replicas; number++ {
		for peer := 1; peer <= replicas; peer++ {
			if peer != number {
				g.awaitTransport(number, peer, "rdma")
			}
		}
	}
}

func value(i int) []byte {
	n := i * 37 % 2000
	if i%25 == 0 {
		n = 300_000 + i
	}
	return bytes.Repeat([]byte(strconv.Itoa(i)+","), n/len(strconv.Itoa(i)+",")+1)
}

func (g *liveGroup) set(number, i int) {
	g.t.Helper()
	if err := g.clients[number].Set(&memcache.Item{Key: fmt.Sprint("key", i), Value: value(i)}); err != nil {
		g.t.Fatalf("set through replica %d: %v", number, err)
	}
}

func (g *liveGroup) get(number, i int) {
	g.t.Helper()
	item, err := g.clients[number].Get(fmt.Sprint("key", i))
	if err != nil || !bytes.Equal(item.Value, value(i)) {
		g.t.Fatalf("get key%d through replica %d: %v", i, number, err)
	}
}

// A real client of memcached is served by a group whose messages go over RDMA; a replica that is killed comes back, by RDMA; one whose link was down too; one
// that is told to use TCP is reached by TCP, and the others by RDMA.
func TestGroup(t *testing.T) {
	const items = 100
	g := startLive(t)
	g.allByRDMA()
	size := 0
	for i := range items {
		g.set(1+i%replicas, i)
		size += len(value(i))
	}
	for i := range items {
		for number := 1; number <= replicas; number++ {
			g.get(number, i)
		}
	}
	if err := g.clients[1].Add(&memcache.Item{Key: "key0", Value: []byte("x")}); !errors.Is(err, memcache.ErrNotStored) {
		t.Errorf("add of what is stored: %v", err)
	}
	if err := g.clients[2].Set(&memcache.Item{Key: "n", Value: []byte("5")}); err != nil {
		t.Fatal(err)
	}
	if n, err := g.clients[3].Increment("n", 3); n != 8 || err != nil {
		t.Errorf("incr: %d, %v", n, err)
	}
	// Each replica has sent what it was given to two others, and nothing over the connections.
	sent := 0
	for number := 1; number <= replicas; number++ {
		sent += g.count(number, "transport_rdma_bytes_sent")
		if n := g.count(number, "transport_write_calls"); n != 0 {
			t.Errorf("replica %d has written to connections %d times", number, n)
		}
	}
	if sent < 2*size || sent > 3*size {
		t.Errorf("%d bytes were sent by RDMA for %d bytes of values to two others", sent, size)
	}

	t.Log("replica 3 is killed, and comes back")
	g.processes[3].Signal(t, os.Kill)
	g.processes[3].Wait(t)
	for i := items; i < items+20; i++ {
		g.set(1+i%2, i)
	}
	g.start(3)
	g.awaitServing("serving")
	g.allByRDMA()
	for i := range items + 20 {
		g.get(3, i)
	}

	t.Log("the link of replica 2 is taken down, and comes back")
	ip(t, "link", "set", "eth2", "down")
	for i := items + 20; i < items+40; i++ {
		g.set(1+2*(i%2), i)
	}
	ip(t, "link", "set", "eth2", "up")
	g.awaitServing("serving")
	g.allByRDMA()
	for i := range items + 40 {
		g.get(2, i)
	}

	t.Log("replica 3 is started with --transport tcp")
	g.processes[3].Stop(t)
	g.start(3, "--transport", "tcp")
	g.awaitServing("serving")
	if reason := g.awaitTransport(1, 3, "tcp"); !strings.Contains(reason, "--transport tcp") {
		t.Errorf("replica 1 says that it reaches 3 by TCP because %q", reason)
	}
	g.awaitTransport(1, 2, "rdma")
	status := g.awaitServing("serving")
	for _, row := range []string{`(?m)^1 .* rdma.* to 2, tcp to 3 `, `(?m)^3 .* tcp to 1,2 `, `(?m)^tcp, .*3 to 1.*: .*--transport tcp`} {
		if !regexp.MustCompile(row).MatchString(status) {
			t.Errorf("group status has nothing like %s:\n%s", row, status)
		}
	}
	for i := items + 40; i < items+50; i++ {
		g.set(1+i%replicas, i)
	}
	for i := range items + 50 {
		g.get(1+i%replicas, i)
	}
	for number := 1; number <= replicas; number++ {
		g.processes[number].Stop(t)
	}
}

// A replica that starts while its port is down serves by TCP, says why, and goes over to RDMA when the port is active.
func TestGroupStartsWithLinkDown(t *testing.T) {
	needGroup(t)
	ip(t, "link", "set", "eth1", "down")
	up := sync.OnceFunc(func() { ip(t, "link", "set", "eth1", "up") })
	t.Cleanup(up)
	g := startLive(t)
	if reason := g.awaitTransport(1, 2, "tcp"); !strings.Contains(reason, "not active") {
		t.Errorf("replica 1 says that it reaches 2 by TCP because %q", reason)
	}
	if reason := g.awaitTransport(2, 1, "tcp"); !strings.Contains(reason, "not active") {
		t.Errorf("replica 2 says that it reaches 1 by TCP because %q", reason)
	}
	up()
	g.allByRDMA()
	g.set(1, 1)
	g.get(2, 1)
	for number := 1; number <= replicas; number++ {
		g.processes[number].Stop(t)
	}
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %v: %v: %s", args, err, out)
	}
}

// --transport rdma does not start where there is no device for the address, and says why.
func TestTransportRDMARefuses(t *testing.T) {
	binary := os.Getenv("HERMESD_RDMA_BINARY")
	if binary == "" {
		t.Skip("needs a binary: make test-rdma")
	}
	p := livetest.Start(t, binary, "-p", "11299", "--transport", "rdma", "--id", "1", "--group", "1=127.0.0.1:11399,2=127.0.0.1:11398", "--data-dir", t.TempDir())
	if status := p.Wait(t); status != 1 || !strings.Contains(p.Stderr(), "the interface lo, which has the address 127.0.0.1, belongs to no RDMA device") {
		t.Errorf("status %d: %s", status, p.Output())
	}
}

// TestCost counts what a replicated set costs the replica that it goes through, one at a time and in batches of 16. It is a measurement, and asserts nothing.
func TestCost(t *testing.T) {
	if *costSets == 0 {
		t.Skip("a measurement: -rdma.cost says of how many sets")
	}
	for _, transport := range []string{"rdma", "tcp"} {
		g := startLive(t, "--transport", transport)
		for _, batch := range []int{1, 16} {
			g.measure(transport, batch, *costSets)
		}
		for number := 1; number <= replicas; number++ {
			g.processes[number].Stop(t)
		}
	}
}

var costs = []string{"messages_sent", "batches_sent", "bytes_sent", "write_calls", "read_calls", "rdma_posts", "rdma_requests", "rdma_requests_inlined",
	"rdma_requests_signalled", "rdma_credit_writes", "rdma_polls", "rdma_polls_empty", "rdma_completions", "rdma_waits", "rdma_crossings"}

func (g *liveGroup) measure(transport string, batch, sets int) {
	conn, err := net.Dial("tcp", client(1))
	if err != nil {
		g.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	run := func(n int) {
		line, reply := []byte(strings.Repeat("set k 0 0 32\r\n"+strings.Repeat("v", 32)+"\r\n", batch)), make([]byte, batch*len("STORED\r\n"))
		for ; n > 0; n -= batch {
			if _, err := conn.Write(line); err != nil {
				g.t.Fatal(err)
			}
			if _, err := io.ReadFull(conn, reply); err != nil || string(reply) != strings.Repeat("STORED\r\n", batch) {
				for number := 1; number <= replicas; number++ {
					g.processes[number].Signal(g.t, syscall.SIGQUIT) // their goroutines
					g.processes[number].Wait(g.t)
					g.t.Log(g.processes[number].Output())
				}
				g.t.Fatalf("%d sets were left: %v: %q", n, err, reply)
			}
		}
	}
	run(10 * batch)
	before, ticks := g.stats(1), g.ticks(1)
	run(sets)
	after, used := g.stats(1), g.ticks(1)-ticks
	text := fmt.Sprintf("%s, batches of %d: %.0f us of CPU a set", transport, batch, float64(used)*1e4/float64(sets))
	for _, name := range costs {
		a, _ := strconv.Atoi(after["transport_"+name])
		b, _ := strconv.Atoi(before["transport_"+name])
		text += fmt.Sprintf("\n  %-24s %8.2f a set", name, float64(a-b)/float64(sets))
	}
	g.t.Log(text)
}

// ticks is the processor time of a replica, in hundredths of a second.
func (g *liveGroup) ticks(number int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", g.processes[number].PID()))
	if err != nil {
		g.t.Fatal(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return user + system
}
