//go:build rdma

package rdma

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"hermesd/replication"
	"hermesd/replication/transporttest"
)

// needDevices skips a test where there are no RDMA devices: rdma/vm/run has them.
func needDevices(t testing.TB, n int) {
	t.Helper()
	if have, _ := strconv.Atoi(os.Getenv("RDMA_DEVICES")); have < n {
		t.Skipf("needs %d RDMA devices, as rdma/vm/run -n %d has them: make test-rdma", n, n)
	}
}

func addressOfDevice(number uint8) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 0, number}) }

// openTestPath is the path of device rxeN. Emulation under load is slow, and a test of something else must not end by silence.
func openTestPath(t testing.TB, number uint8, o Options) replication.Path {
	t.Helper()
	o.Address, o.Logger = addressOfDevice(number), zerolog.Nop()
	if o.Silence == 0 {
		o.Silence = 30 * time.Second
	}
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestContract(t *testing.T) {
	needDevices(t, 3)
	transporttest.Run(t, func(t testing.TB, o transporttest.Options) transporttest.Network {
		var mu sync.Mutex
		var paths []*path // also of members that have been closed
		network := transporttest.NewTCPNetwork(t, o, func(t testing.TB, number uint8) replication.Path {
			p := openTestPath(t, number, Options{})
			mu.Lock()
			defer mu.Unlock()
			paths = append(paths, p.(*path))
			return p
		})
		return &breaking{Network: network, pairs: func() {
			mu.Lock()
			defer mu.Unlock()
			for _, p := range paths {
				p.failAll()
			}
		}}
	})
}

// failAll has the queue pairs of all channels fail.
func (p *path) failAll() {
	for _, ch := range p.clock.all() {
		ch.mu.Lock()
		if !ch.closed {
			_ = ch.wire.(*deviceWire).fail() // which it may have done by itself
		}
		ch.mu.Unlock()
	}
}

// Whatever becomes of an end, and of what could not become one, the device has as many objects, the process as many descriptors and as much registered memory as before.
func TestNothingIsLeft(t *testing.T) {
	needDevices(t, 2)
	paths := [2]*path{openTestPath(t, 1, Options{}).(*path), openTestPath(t, 2, Options{}).(*path)}
	for _, p := range paths {
		defer p.Close()
	}
	open := func(i int) *end {
		t.Helper()
		e, err := paths[i].Open(uint8(2-i), netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		return e.(*end)
	}
	held := func() string {
		t.Helper()
		out, err := exec.Command("rdma", "resource", "show").Output()
		if err != nil {
			t.Fatal(err)
		}
		descriptors, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		_, pinned, found := strings.Cut(string(status), "VmPin:")
		if !found {
			t.Fatal("/proc/self/status does not say how much memory is registered")
		}
		pinned, _, _ = strings.Cut(pinned, "\n")
		return fmt.Sprintf("%s%d descriptors, %s of memory registered", out, len(descriptors), strings.TrimSpace(pinned))
	}
	open(0).Close() // what is made once is made
	before := held()
	for range 10 {
		one, other := open(0), open(1)
		if err := one.Connect([]byte{offerVersion}); err == nil {
			t.Error("connected to nonsense")
		}
		o := other.offer()
		o.qpn ^= 1 << 23 // nobody's
		if err := one.Connect(o.append(nil)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := one.Probe(ctx); err == nil {
			t.Error("nobody has answered")
		}
		one.Close()
		ch := other.Channel(channelConfig(1)) // refused before it was opened
		ch.Close()
		if _, err := newVerbsWire(one.wire.device, 77, &paths[0].options); err == nil {
			t.Error("a queue pair on a port that there is not")
		}
	}
	e := open(0)
	if held() == before {
		t.Error("an end is not counted")
	}
	e.Close()
	if after := held(); after != before {
		t.Errorf("held before:\n%s\nand after:\n%s", before, after)
	}
}

// The address leads to the device, the port and the GID; other addresses and names lead to reasons.
func TestChoose(t *testing.T) {
	needDevices(t, 2)
	open := func(name string) (*device, error) {
		d, err := openDevice(name)
		if err == nil {
			t.Cleanup(d.close)
		}
		return d, err
	}
	for number := uint8(1); number <= 2; number++ {
		c, err := choose(addressOfDevice(number), &Options{}, open)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("rxe%d", number); c.device != want || c.port.number != 1 || c.gid.kind != gidRoCE2 ||
			netip.AddrFrom16(c.gid.raw).Unmap() != addressOfDevice(number) || !strings.Contains(c.why, "eth"+strconv.Itoa(int(number))) {
			t.Errorf("%v: chose %v because %s", addressOfDevice(number), c, c.why)
		}
	}
	if c, err := choose(addressOfDevice(1), &Options{Device: "rxe2:1", GIDIndex: "0"}, open); err != nil || c.device != "rxe2" || c.gid.index != 0 {
		t.Errorf("by name: %v, %v", c, err)
	}
	for _, c := range []struct {
		addr netip.Addr
		o    Options
		want string
	}{
		{netip.MustParseAddr("127.0.0.1"), Options{}, "the interface lo, which has the address 127.0.0.1, belongs to no RDMA device"},
		{netip.MustParseAddr("10.77.9.9"), Options{}, "no interface of this machine has the address 10.77.9.9"},
		{netip.MustParseAddr("0.0.0.0"), Options{}, "--rdma-device"},
		{addressOfDevice(1), Options{Device: "mlx5_7"}, "there is no device mlx5_7"},
		{addressOfDevice(1), Options{Device: "rxe1:2"}, "has no port 2"},
		{addressOfDevice(1), Options{Device: "rxe2"}, "has no GID for the address 10.77.0.1"},
		{addressOfDevice(1), Options{GIDIndex: "77"}, "has no GID 77"},
		{addressOfDevice(1), Options{GIDIndex: "256"}, "0 to 255"},
	} {
		if _, err := choose(c.addr, &c.o, open); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, %+v: %v instead of %q", c.addr, c.o, err, c.want)
		}
	}
	var out bytes.Buffer
	if err := List(&out, []netip.Addr{addressOfDevice(2), netip.MustParseAddr("127.0.0.1")}, Options{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"rxe1: 1 port(s)", "active, Ethernet, MTU 4096", "10.77.0.2, RoCE v2, eth2", "for 10.77.0.2: rxe2 port 1 GID 1", "for 127.0.0.1: TCP: the interface lo"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the list lacks %q:\n%s", want, out.String())
		}
	}
}

// A port with more addresses than a queue pair can name the GIDs of is listed whole, and used by those that it can.
func TestManyAddresses(t *testing.T) {
	needDevices(t, 2)
	d, err := openDevice("rxe2")
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	const more = 300
	address := func(i int) string { return fmt.Sprintf("10.78.%d.%d", i/200, 1+i%200) }
	lines := ""
	for i := range more {
		lines += "addr add " + address(i) + "/16 dev eth2\n"
	}
	add := exec.Command("ip", "-batch", "-")
	add.Stdin = strings.NewReader(lines)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("ip: %v: %s", err, out)
	}
	awaitGIDs := func(enough func(n int) bool) {
		var n int
		for deadline := time.Now().Add(time.Minute); !enough(n); time.Sleep(10 * time.Millisecond) {
			p, err := d.port(1)
			if err != nil {
				t.Fatal(err)
			}
			if n = len(p.gids); time.Now().After(deadline) {
				t.Fatalf("%d GIDs", n)
			}
		}
	}
	defer func() {
		if out, err := exec.Command("ip", "addr", "flush", "dev", "eth2", "to", "10.78.0.0/16").CombinedOutput(); err != nil {
			t.Fatalf("ip: %v: %s", err, out)
		}
		awaitGIDs(func(n int) bool { return n > 0 && n <= 2 })
	}()
	awaitGIDs(func(n int) bool { return n > more })
	open := func(string) (*device, error) { return d, nil }
	if c, err := choose(addressOfDevice(2), &Options{}, open); err != nil || netip.AddrFrom16(c.gid.raw).Unmap() != addressOfDevice(2) {
		t.Errorf("for an address with a low index: %v, %v", c, err)
	}
	if c, err := choose(netip.MustParseAddr(address(more-1)), &Options{}, open); err == nil || !strings.Contains(err.Error(), "255 at most") {
		t.Errorf("for one with a high index: %v, %v", c, err)
	}
}

// sink takes what comes, and tells.
type sink struct {
	got  chan uint64
	gate chan struct{} // nil: open
}

func (s *sink) PeerUp(replication.Member) error    { return nil }
func (s *sink) EndBatch(replication.Member)        {}
func (s *sink) PeerDown(replication.Member, error) {}
func (s *sink) Receive(m *replication.Message) {
	if s.gate != nil {
		<-s.gate
	}
	s.got <- m.ID
}

// pair is two ends on two devices, connected and made channels, without a transport.
type pair struct {
	paths [2]replication.Path
	ends  [2]*end
	chans [2]replication.Channel
	sinks [2]*sink
	errs  [2]chan error
	wg    sync.WaitGroup
}

func newPair(t *testing.T, o Options) *pair {
	t.Helper()
	p := connectedPair(t, o)
	p.start(t)
	return p
}

// connectedPair has ends that are connected and have been tried.
func connectedPair(t *testing.T, o Options) *pair {
	t.Helper()
	p := &pair{}
	for i := range 2 {
		p.paths[i] = openTestPath(t, uint8(i+1), o)
		e, err := p.paths[i].Open(uint8(2-i), netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		p.ends[i] = e.(*end)
	}
	for i := range 2 {
		if err := p.ends[i].Connect(p.ends[1-i].Offer()); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if err := p.ends[i].Probe(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	return p
}

func (p *pair) start(t *testing.T) {
	for i := range 2 {
		p.sinks[i] = &sink{got: make(chan uint64, 1<<16)}
		p.errs[i] = make(chan error, 1)
		p.chans[i] = p.ends[i].Channel(channelConfig(uint8(2 - i)))
		p.wg.Go(p.chans[i].Write)
		p.wg.Go(func() { p.errs[i] <- p.chans[i].Read(p.sinks[i]) })
		p.chans[i].Open()
	}
	t.Cleanup(func() {
		for _, ch := range p.chans {
			ch.Break(errors.New("the test is over"))
		}
		p.wg.Wait()
		for i := range 2 {
			p.chans[i].Close()
			_ = p.paths[i].Close()
		}
	})
}

// exchange sends one message there, and waits until it has come.
func (p *pair) exchange(t *testing.T, from int, id uint64) {
	t.Helper()
	p.chans[from].Send(&replication.Message{Kind: replication.MARK, ID: id})
	p.chans[from].Flush()
	select {
	case got := <-p.sinks[1-from].got:
		if got != id {
			t.Fatalf("message %d came instead of %d", got, id)
		}
	case <-time.After(time.Minute):
		t.Fatalf("message %d has not come; the channel: %v", id, p.chans[from].Cause())
	}
}

// ended waits until a channel has ended, and says why.
func (p *pair) ended(t *testing.T, i int) error {
	t.Helper()
	select {
	case err := <-p.errs[i]:
		return err
	case <-time.After(time.Minute):
		t.Fatal("the channel has not ended")
		return nil
	}
}

// A queue pair that fails, by whatever the device does, ends the channel: here at once, and there with the next thing that is sent.
func TestQueuePairFails(t *testing.T) {
	needDevices(t, 2)
	p := newPair(t, Options{})
	p.exchange(t, 0, 1)
	p.exchange(t, 1, 2)
	if err := p.ends[0].wire.fail(); err != nil {
		t.Fatal(err)
	}
	for i := range 2 { // the failed one's requests are flushed, the other's are not answered
		p.chans[i].Send(&replication.Message{Kind: replication.MARK, ID: 3})
		p.chans[i].Flush()
		ch := p.ends[i].path.clock.all()[0]
		ch.mu.Lock()
		ch.sign = true // an error comes with any request, but a success shows only in a signalled one
		ch.mu.Unlock()
		ch.Flush()
	}
	for i, want := range []string{"Flushed", "not answered"} {
		if err := p.ended(t, i); !strings.Contains(err.Error(), want) {
			t.Errorf("end %d: %v instead of %q", i, err, want)
		}
	}
}

// Whoever arms the queue and then finds something does not wait for the event, which comes with the next completion. Those events must not gather.
func TestEventsDoNotPileUp(t *testing.T) {
	needDevices(t, 2)
	p := connectedPair(t, Options{})
	from, to := p.ends[0].wire, p.ends[1].wire
	var out [pollMax]completion
	await := func(w *deviceWire, arm bool) {
		for n := 0; n == 0; {
			var err error
			if n, err = w.poll(0, arm, out[:]); err != nil {
				t.Fatal(err)
			}
		}
	}
	for sent := range uint64(20) {
		if err := from.post(sent, []request{{imm: immCredit, flags: requestImmediate | requestSignalled}}); err != nil {
			t.Fatal(err)
		}
		await(to, true)
		await(from, false)
	}
	if err := to.wait(); err != nil {
		t.Fatal(err)
	}
	if to.takeEvent(0) {
		t.Error("events were left over: each is for something that has been polled long since")
	}
	for i := range 2 {
		p.ends[i].Close()
		_ = p.paths[i].Close()
	}
}

// A request for which the peer has no receive request, which credit excludes, is an error and not a wait.
func TestReceiverNotReady(t *testing.T) {
	needDevices(t, 2)
	p := connectedPair(t, Options{Depth: 16})
	// Beyond the depth there are some for credit, and for those that a poll has taken and not posted again.
	w, most := p.ends[0].wire, 16+reservedReceives+pollMax
	posted, failed := 1, error(nil) // the probe took one
	var out [pollMax]completion
	for sent := 0; failed == nil && sent < 2*most; {
		if err := w.post(uint64(sent), []request{{imm: immCredit, flags: requestImmediate | requestSignalled}}); err != nil {
			t.Fatal(err)
		}
		sent++
		for done := false; !done; {
			n, err := w.poll(0, true, out[:])
			if err != nil {
				t.Fatal(err)
			}
			for i := range out[:n] {
				if done = out[i].receive == 0; done && out[i].status != 0 && failed == nil {
					failed = w.why(&out[i])
				} else if done && failed == nil {
					posted++
				}
			}
			if n == 0 {
				if err := w.wait(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if failed == nil || !strings.Contains(failed.Error(), "credit that it did not have") {
		t.Errorf("after %d: %v", posted, failed)
	}
	if posted != most {
		t.Errorf("%d requests were taken, the peer had posted %d", posted, most)
	}
	for i := range 2 {
		p.ends[i].Close()
		_ = p.paths[i].Close()
	}
}

// Where TCP passes and RDMA does not, an end's try fails, and says what to look at.
func TestUnanswered(t *testing.T) {
	needDevices(t, 2)
	var ends [2]*end
	for i := range 2 {
		p := openTestPath(t, uint8(i+1), Options{})
		t.Cleanup(func() { _ = p.Close() })
		e, err := p.Open(uint8(2-i), netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = e.(*end)
		defer ends[i].Close()
	}
	o := ends[1].offer()
	o.qpn ^= 1 << 23 // nobody's
	if err := ends[0].Connect(o.append(nil)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := ends[0].Probe(ctx); err == nil || !strings.Contains(err.Error(), "UDP port 4791") || ctx.Err() != nil {
		t.Errorf("the try ended with %v, %v", err, ctx.Err())
	}
}

// A device that has failed ends its channels, and the next end is one of the device opened anew. That an event says so cannot be brought about here.
func TestDeviceLost(t *testing.T) {
	needDevices(t, 2)
	p := newPair(t, Options{})
	p.exchange(t, 0, 1)
	lost := p.ends[0].wire.device
	p.ends[0].path.lose(lost, errors.New("as if it had said so"))
	if err := p.ended(t, 0); !errors.Is(err, errDeviceGone) {
		t.Errorf("the channel ended with %v", err)
	}
	e, err := p.paths[0].Open(2, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if e.(*end).wire.device == lost {
		t.Error("the next end is one of the device that is gone")
	}
}

// What is written where the peer has registered nothing breaks the queue pairs, and no memory.
func TestWrongKey(t *testing.T) {
	needDevices(t, 2)
	p := connectedPair(t, Options{})
	p.ends[0].wire.end.peer_rkey ^= 0x5555
	p.start(t)
	p.chans[0].Send(&replication.Message{Kind: replication.MARK, ID: 1})
	p.chans[0].Flush()
	if err := p.ended(t, 0); !strings.Contains(err.Error(), "remote access error") {
		t.Errorf("the channel ended with %v", err)
	}
}

// An idle channel wakes for the signs of life and nothing else, and ends when nothing comes of them.
func TestIdle(t *testing.T) {
	needDevices(t, 2)
	p := newPair(t, Options{Silence: 3 * time.Second})
	p.exchange(t, 0, 1)
	c := &p.ends[0].path.counters[2]
	awaitCount(t, c.signs.Load, 2) // one after the other: the time between is idle
	waits, crossings := c.waits.Load(), c.crossings.Load()
	awaitCount(t, c.signs.Load, 4)
	if w, x := c.waits.Load()-waits, c.crossings.Load()-crossings; w > 8 || x > 200 {
		t.Errorf("%d sleeps and %d calls while there was nothing but two signs of life", w, x)
	}
	p.exchange(t, 1, 2)
}

func awaitCount(t *testing.T, count func() uint64, want uint64) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); count() < want; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("counted %d, waiting for %d", count(), want)
		}
	}
}

func setLink(t *testing.T, name, state string) {
	t.Helper()
	if out, err := exec.Command("ip", "link", "set", name, state).CombinedOutput(); err != nil {
		t.Fatalf("ip link set %s %s: %v: %s", name, state, err, out)
	}
}

// A peer whose link is down says nothing, and nor does the device here: the channel ends by silence. Meanwhile new ends cannot be had there, and the reason is
// said; after the link is back they can.
func TestLinkDown(t *testing.T) {
	needDevices(t, 2)
	p := newPair(t, Options{Silence: 3 * time.Second})
	p.exchange(t, 0, 1)
	setLink(t, "eth2", "down")
	up := sync.OnceFunc(func() { setLink(t, "eth2", "up") })
	t.Cleanup(up)
	p.chans[0].Send(&replication.Message{Kind: replication.MARK, ID: 2})
	p.chans[0].Flush()
	if err := p.ended(t, 0); !strings.Contains(err.Error(), "silent") && !strings.Contains(err.Error(), "not answered") {
		t.Errorf("the channel ended with %v", err)
	}
	if _, err := p.paths[1].Open(1, netip.Addr{}); err == nil || !strings.Contains(err.Error(), "not active") {
		t.Errorf("an end on a port that is down: %v", err)
	}
	// Who begins now has no path, or one that waits.
	if _, err := New(Options{Address: addressOfDevice(2)}); err == nil || !strings.Contains(err.Error(), "not active") {
		t.Errorf("a path on a port that is down: %v", err)
	}
	waits := openTestPath(t, 2, Options{AwaitPort: true})
	defer waits.Close()
	if _, err := waits.Open(1, netip.Addr{}); err == nil || !strings.Contains(err.Error(), "not active") {
		t.Errorf("an end on a port that is down, of a path that waits: %v", err)
	}
	up()
	for i, path := range []replication.Path{p.paths[1], waits} {
		select {
		case <-path.Revived():
		case <-time.After(time.Minute):
			t.Fatalf("path %d does not say that its port is active again", i)
		}
	}
	e, err := waits.Open(1, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	e.Close()
	again := connectedPair(t, Options{})
	again.start(t)
	again.exchange(t, 0, 1)
	again.exchange(t, 1, 2)
}

// A process that may not lock the memory is told so before it starts, and where that could not be foreseen, when the memory is registered.
func TestLockedMemoryLimit(t *testing.T) {
	needDevices(t, 1)
	if role := os.Getenv("RDMA_TEST_LOCKED"); role != "" {
		p, err := New(Options{Address: addressOfDevice(1), Peers: map[string]int{"foreseen": 4, "not": 0}[role], Logger: zerolog.Nop()})
		if err == nil {
			_, err = p.Open(2, netip.Addr{})
		}
		fmt.Println("got:", err)
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for role, want := range map[string]string{"foreseen": "4 other replicas take up to", "not": "registering the ring"} {
		// A user without rights, with a limit of 512 KiB: less than a ring.
		cmd := exec.Command("prlimit", "--memlock=524288:524288", self, "-test.run", "^TestLockedMemoryLimit$", "-test.v")
		cmd.Env = append(os.Environ(), "RDMA_TEST_LOCKED="+role)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		cmd.Dir = "/"
		if err := exec.Command("chmod", "-R", "a+rw", "/dev/infiniband").Run(); err != nil {
			t.Fatal(err)
		}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) || !strings.Contains(string(out), "ulimit -l") {
			t.Errorf("%s: %v, instead of %q:\n%s", role, err, want, out)
		}
	}
}

// Root in a container of an ordinary user has the right to lock memory there, which does not count. (The virtual machine's command is in a chroot, from which there
// are no user namespaces to be had.)
func TestUserNamespace(t *testing.T) {
	for users, want := range map[string]bool{
		"         0          0 4294967295\n":                                   true, // as the kernel writes it
		"         0       1000          1\n":                                   false,
		"         0       1000          1\n         1     100000      65536\n": false,
		"": false,
	} {
		if isMachines(users) != want {
			t.Errorf("uid_map %q: the machine's own: %v", users, !want)
		}
	}
}

// Many messages of random sizes in both directions at once. The contract's tests have more of everything else; this has volume.
func TestRandomSizes(t *testing.T) {
	needDevices(t, 2)
	messages := 20_000
	if *randomMessages > 0 {
		messages = *randomMessages
	} else if testing.Short() {
		messages = 3_000
	}
	p := connectedPair(t, Options{})
	var chans [2]replication.Channel
	for i := range 2 {
		chans[i] = p.ends[i].Channel(channelConfig(uint8(2 - i)))
	}
	exchangeRandomly(t, chans, messages)
	for i := range 2 {
		chans[i].Close()
		p.ends[i].path.counters[2-i].each(func(name string, value uint64) { t.Logf("%s %d", name, value) })
		_ = p.paths[i].Close()
	}
}
