package replication

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"hermesd/table"
)

func life(number uint8, incarnation uint64) Member {
	return Member{Number: number, Incarnation: incarnation}
}

// handshakeTCP returns the transport of member 2, incarnation 20, that has been started and has these peers, and where it listens.
func handshakeTCP(t *testing.T, hold time.Duration, peers ...Peer) (*TCP, net.Listener) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := NewTCP(TCPConfig{Self: life(2, 20), Listener: ln, Logger: zerolog.Nop(), ValueMax: 1000, HandshakeTimeout: 2 * patience, HoldTimeout: hold})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tcp.Close() })
	tcp.SetPeers(peers)
	if err := tcp.Start(acceptsAll{}); err != nil {
		t.Fatal(err)
	}
	return tcp, ln
}

type acceptsAll struct{}

func (acceptsAll) PeerUp(Member) error    { return nil }
func (acceptsAll) Receive(*Message)       {}
func (acceptsAll) EndBatch(Member)        {}
func (acceptsAll) PeerDown(Member, error) {}

// knockAs dials and says HELLO.
func knockAs(t *testing.T, ln net.Listener, hello []byte) net.Conn {
	t.Helper()
	c := dialTo(t, ln)
	if _, err := c.Write(hello); err != nil {
		t.Fatal(err)
	}
	return c
}

// A member that does not fit is refused in words that say what to do; those that the next view may let in are told that too.
func TestHandshakeRefusals(t *testing.T) {
	tcp, ln := handshakeTCP(t, time.Millisecond, Peer{life(3, 30), "127.0.0.1:1"})
	change := func(hello []byte, at int, to ...byte) []byte {
		copy(hello[at:], to)
		sum := crc32.Checksum(hello[:len(hello)-4], castagnoli)
		return binary.LittleEndian.AppendUint32(hello[:len(hello)-4], sum)
	}
	const payload = greetHead
	fits := func() []byte { return tcp.hello(life(3, 30), life(2, 20)) }
	for _, c := range []struct {
		name   string
		hello  []byte
		text   string
		notYet bool
	}{
		{"another version", change(fits(), 8, 1), "version 1 of the replication protocol and this replica version 3", false},
		{"no number", tcp.hello(life(0, 1), life(2, 20)), "there is no member 0", false},
		{"too great a number", tcp.hello(life(64, 1), life(2, 20)), "there is no member 64", false},
		{"no incarnation", tcp.hello(life(3, 0), life(2, 20)), "there is no member 3 of incarnation 0", false},
		{"its own number", tcp.hello(life(2, 1), life(2, 20)), "both ends are member 2: give every replica a number of its own", false},
		{"for another", tcp.hello(life(3, 30), life(1, 20)), "member 3 looks for member 1 at the address of member 2", false},
		{"the wrong way round", tcp.hello(life(1, 10), life(2, 20)), "member 1 is dialled by member 2", false},
		{"other lanes", change(fits(), payload+2, table.Lanes+1), "run the same hermesd everywhere", false},
		{"other item size", change(fits(), payload+20, 0xe9), "member 3 takes values up to 1001 bytes and member 2 up to 1000", false},
		{"not listed", tcp.hello(life(4, 40), life(2, 20)), "member 4 (incarnation 40) is not in the view of member 2", true},
		{"an earlier life", tcp.hello(life(3, 29), life(2, 20)), "member 3 (incarnation 29) is not in the view of member 2, which has incarnation 30 of it", true},
		{"a later life", tcp.hello(life(3, 31), life(2, 20)), "which has incarnation 30 of it", true},
		{"for a later life", tcp.hello(life(3, 30), life(2, 21)), "member 3 looks for incarnation 21 of member 2, which is incarnation 20", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := readGreeting(knockAs(t, ln, c.hello))
			var r *refusal
			if !errors.As(err, &r) || !strings.Contains(r.text, c.text) || r.notYet != c.notYet {
				t.Errorf("answered %+v instead of %q, not yet %v", err, c.text, c.notYet)
			}
		})
	}
}

// requireHello fails unless the answer is the HELLO of a life to another.
func requireHello(t *testing.T, c net.Conn, from, to Member) {
	t.Helper()
	h, err := readHello(c)
	if err != nil || h.from != from || h.to != to {
		t.Errorf("answered %+v, %v instead of the HELLO of %v to %v", h, err, from, to)
	}
}

// Who comes before its view is held, and let in at once when the view arrives; what it is held for is not cut short.
func TestHandshakeIsHeld(t *testing.T) {
	listed := Peer{life(3, 30), "127.0.0.1:1"}
	hold := func(t *testing.T, hello func(tcp *TCP) []byte, peers ...Peer) (*TCP, net.Conn) {
		tcp, ln := handshakeTCP(t, patience, peers...)
		c := knockAs(t, ln, hello(tcp))
		await(t, "the connection is held", func() bool {
			tcp.mu.Lock()
			defer tcp.mu.Unlock()
			return len(tcp.arrivals) == 1
		})
		return tcp, c
	}
	fits := func(tcp *TCP) []byte { return tcp.hello(life(3, 30), life(2, 20)) }
	t.Run("until it is listed", func(t *testing.T) {
		tcp, c := hold(t, fits)
		tcp.SetPeers([]Peer{{life(4, 40), "127.0.0.1:1"}})
		tcp.SetPeers([]Peer{listed})
		requireHello(t, c, life(2, 20), life(3, 30))
	})
	t.Run("until its incarnation is listed", func(t *testing.T) {
		tcp, c := hold(t, fits, Peer{life(3, 29), "127.0.0.1:1"})
		tcp.SetPeers([]Peer{listed})
		requireHello(t, c, life(2, 20), life(3, 30))
	})
	t.Run("until the life that it looks for begins", func(t *testing.T) {
		tcp, c := hold(t, func(tcp *TCP) []byte { return tcp.hello(life(3, 30), life(2, 21)) }, listed)
		tcp.Reset(life(2, 21))
		tcp.SetPeers([]Peer{listed})
		requireHello(t, c, life(2, 21), life(3, 30))
	})
	t.Run("until a view comes that makes it impossible", func(t *testing.T) {
		tcp, c := hold(t, fits)
		tcp.Reset(life(4, 40))
		_, _, err := readGreeting(c)
		if err == nil || !strings.Contains(err.Error(), "member 3 looks for member 2 at the address of member 4") {
			t.Errorf("answered %v", err)
		}
	})
	t.Run("until it dials anew", func(t *testing.T) {
		tcp, first := hold(t, fits)
		second := knockAs(t, tcp.cfg.Listener, fits(tcp))
		requireClosed(t, first)
		tcp.SetPeers([]Peer{listed})
		requireHello(t, second, life(2, 20), life(3, 30))
	})
	t.Run("beside another life of it", func(t *testing.T) {
		tcp, first := hold(t, fits)
		other := knockAs(t, tcp.cfg.Listener, tcp.hello(life(3, 31), life(2, 20)))
		await(t, "both are held", func() bool {
			tcp.mu.Lock()
			defer tcp.mu.Unlock()
			return len(tcp.arrivals) == 2
		})
		tcp.SetPeers([]Peer{listed})
		requireHello(t, first, life(2, 20), life(3, 30))
		_ = tcp.Close()
		requireClosed(t, other)
	})
	t.Run("until Close", func(t *testing.T) {
		tcp, c := hold(t, fits)
		_ = tcp.Close()
		requireClosed(t, c)
	})
}

// The one that dials takes nobody else than the life that it looks for, and says why.
func TestHandshakeOfTheDialler(t *testing.T) {
	for _, c := range []struct {
		name     string
		from, to Member
		text     string
	}{
		{"another member", life(3, 10), life(2, 20), "member 3 answers at the address of member 1"},
		{"another life", life(1, 11), life(2, 20), "incarnation 11 of member 1 answers where member 2 looks for incarnation 10"},
		{"for another life", life(1, 10), life(2, 19), "member 1 answers incarnation 19 of member 2, which is incarnation 20"},
		{"the one", life(1, 10), life(2, 20), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			one, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer one.Close()
			tcp, _ := handshakeTCP(t, 0, Peer{life(1, 10), one.Addr().String()})
			conn := accept(t, one)
			requireHello(t, conn, life(2, 20), life(1, 10))
			if _, err := conn.Write(tcp.hello(c.from, c.to)); err != nil {
				t.Fatal(err)
			}
			kind, _, err := readGreeting(conn)
			if c.text == "" && (err != nil || kind != greetReady) || c.text != "" && (err == nil || !strings.Contains(err.Error(), c.text)) {
				t.Errorf("answered %v, %v instead of %q", kind, err, c.text)
			}
		})
	}
}

// A listing that is changed while its member is dialled is dialled anew at once, and the connection under way is given up.
func TestListingChangesDuringTheHandshake(t *testing.T) {
	one, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	tcp, _ := handshakeTCP(t, 0, Peer{life(1, 10), one.Addr().String()})
	first := accept(t, one)
	requireHello(t, first, life(2, 20), life(1, 10))
	tcp.SetPeers([]Peer{{life(1, 11), one.Addr().String()}})
	requireClosed(t, first)
	second := accept(t, one)
	requireHello(t, second, life(2, 20), life(1, 11))
	tcp.Reset(life(2, 21))
	requireClosed(t, second)
	tcp.SetPeers([]Peer{{life(1, 11), one.Addr().String()}})
	requireHello(t, accept(t, one), life(2, 21), life(1, 11))
}

// The same with one that has dialled and does not say READY: nobody waits for it.
func TestResetDuringTheHandshake(t *testing.T) {
	listed := Peer{life(3, 30), "127.0.0.1:1"}
	for _, c := range []struct {
		name string
		end  func(tcp *TCP)
	}{
		{"delisted", func(tcp *TCP) { tcp.SetPeers(nil) }},
		{"Reset", func(tcp *TCP) { tcp.Reset(life(2, 21)) }},
		{"Close", func(tcp *TCP) { _ = tcp.Close() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			tcp, ln := handshakeTCP(t, patience, listed)
			conn := knockAs(t, ln, tcp.hello(life(3, 30), life(2, 20)))
			requireHello(t, conn, life(2, 20), life(3, 30))
			c.end(tcp)
			requireClosed(t, conn)
		})
	}
}

// A connection whose turn comes when its listing has ended is nobody's channel: Reset may have returned.
func TestTurnAfterTheListingEnded(t *testing.T) {
	tcp, ln := handshakeTCP(t, 0, Peer{life(3, 30), "127.0.0.1:1"})
	p := tcp.peers[3].Load()
	l := p.listing
	tcp.Reset(life(2, 21))
	tcp.handler = nil // calling it panics
	if _, err := p.serve(dialTo(t, ln), l, life(3, 30), agreed{}, false); err != errReset {
		t.Errorf("served: %v", err)
	}
}

// Waits between tries grow, but not where the member can be expected to let us in soon.
func TestRedialWaits(t *testing.T) {
	down := errors.New("connection refused")
	notYet := &refusal{text: "not in the view", notYet: true}
	for _, c := range []struct {
		name     string
		up       time.Duration
		accepted bool
		err      error
		want     time.Duration
	}{
		{"it cannot be reached", 0, false, down, redialMax},
		{"it refuses", 0, false, &refusal{text: "another item size"}, redialMax},
		{"it refuses for now", 0, false, notYet, redialMin},
		{"a channel that was short", time.Millisecond, true, down, redialAgain},
		{"a channel that was long", 2 * steadyAfter, true, down, redialMin},
	} {
		if got := redialAfter(redialMax, c.up, c.accepted, c.err); got != c.want {
			t.Errorf("%s: the wait is %v instead of %v", c.name, got, c.want)
		}
	}
}

// SetPeers ends the wait of those that have not changed too: who lists them again may know that they are there.
func TestSetPeersEndsTheWait(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := NewTCP(TCPConfig{Self: life(2, 20), Listener: ln, Logger: zerolog.Nop(), ValueMax: 1000})
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	peers := []Peer{{life(1, 10), "127.0.0.1:1"}}
	tcp.SetPeers(peers)
	l := tcp.peers[1].Load().listing
	tcp.SetPeers(peers)
	tcp.SetPeers(peers)
	if !l.sleep(24 * time.Hour) {
		t.Error("the listing has ended, though nothing changed")
	}
	tcp.SetPeers(nil)
	if l.sleep(24 * time.Hour) {
		t.Error("the listing has not ended")
	}
}

// Counters are of a number: they go on when it is listed again, and the totals keep what is not listed any more.
func TestStatsOfFormerPeers(t *testing.T) {
	tcp, _ := handshakeTCP(t, 0)
	stats := func() map[string]uint64 {
		all := make(map[string]uint64)
		tcp.Stats(func(name string, value uint64) { all[name] = value })
		return all
	}
	tcp.SetPeers([]Peer{{life(3, 30), "127.0.0.1:1"}})
	tcp.peers[3].Load().stats.connects.Add(5)
	for _, incarnation := range []uint64{0, 31} {
		if tcp.SetPeers(nil); stats()["transport_connects"] != 5 {
			t.Error("the total has lost what is not listed any more")
		}
		if _, ok := stats()["peer:3:up"]; ok {
			t.Error("a member that is not listed is shown")
		}
		tcp.SetPeers([]Peer{{life(3, incarnation), "127.0.0.1:1"}})
		if s := stats(); s["peer:3:connects"] != 5 || s["transport_connects"] != 5 {
			t.Errorf("listed again: %v", s)
		}
	}
}

// What a transport cannot work with is refused, and the listener closed.
func TestTCPConfigErrors(t *testing.T) {
	for _, c := range []struct {
		text   string
		change func(cfg *TCPConfig)
	}{
		{"member number 0 is not in 1..63", func(cfg *TCPConfig) { cfg.Self.Number = 0 }},
		{"member number 64 is not in 1..63", func(cfg *TCPConfig) { cfg.Self.Number = 64 }},
		{"member 1 needs an incarnation", func(cfg *TCPConfig) { cfg.Self.Incarnation = 0 }},
		{"needs a listener", func(cfg *TCPConfig) { cfg.Listener = nil }},
		{"ValueMax 0 is not in", func(cfg *TCPConfig) { cfg.ValueMax = 0 }},
		{"cannot be negative", func(cfg *TCPConfig) { cfg.HoldTimeout = -1 }},
		{"PeerTimeout 1ms is below 500ms", func(cfg *TCPConfig) { cfg.PeerTimeout = time.Millisecond }},
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		cfg := TCPConfig{Self: life(1, 1), Listener: ln, ValueMax: 1000}
		c.change(&cfg)
		if _, err = NewTCP(cfg); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%v instead of %q", err, c.text)
		}
		if cfg.Listener != nil && ln.Close() == nil {
			t.Errorf("%s: the listener was left open", c.text)
		}
		_ = ln.Close()
	}
}
