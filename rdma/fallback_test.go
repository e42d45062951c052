package rdma

import (
	"bytes"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"hermesd/replication"
)

// upTo is a handler that says when its peer is up, and on which channel of how many.
type upTo struct {
	mu  sync.Mutex
	ups int
	is  bool
	got uint64
}

func (u *upTo) PeerUp(replication.Member) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ups, u.is = u.ups+1, true
	return nil
}
func (u *upTo) Receive(m *replication.Message) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.got = m.ID
}
func (u *upTo) EndBatch(replication.Member) {}
func (u *upTo) PeerDown(replication.Member, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.is = false
}

// member is a transport with or without a path.
type member struct {
	*upTo
	tcp  *replication.TCP
	addr string
	log  lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newMember(t *testing.T, number uint8, path replication.Path, none string, only bool) *member {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &member{upTo: &upTo{}, addr: ln.Addr().String()}
	m.tcp, err = replication.NewTCP(replication.TCPConfig{Self: replication.Member{Number: number, Incarnation: 1}, Listener: ln, ValueMax: 1000,
		Logger: zerolog.New(&m.log), Path: path, NoPath: none, PathOnly: only})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.tcp.Start(m.upTo); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.tcp.Close() })
	return m
}

func connect(members [2]*member) {
	for i, m := range members {
		other := members[1-i]
		m.tcp.SetPeers([]replication.Peer{{Member: replication.Member{Number: uint8(2 - i), Incarnation: 1}, Address: other.addr}})
	}
}

// eventually waits until done says so.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting until %s", what)
		}
	}
}

func (m *member) isUp() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.is
}

// words are what the transport says of the peer's channel.
func (m *member) words() (transport, reason string) {
	for _, ch := range m.tcp.Channels() {
		transport, reason = ch.Transport, ch.Reason
	}
	return transport, reason
}

func (m *member) send(peer uint8, id uint64) {
	m.tcp.Send(peer, &replication.Message{Kind: replication.MARK, ID: id})
	m.tcp.Flush()
}

// exchange shows that messages pass.
func exchangeMarks(t *testing.T, members [2]*member, id uint64) {
	t.Helper()
	for i, m := range members {
		other := members[1-i]
		m.send(uint8(2-i), id)
		eventually(t, "a message came", func() bool {
			other.mu.Lock()
			defer other.mu.Unlock()
			return other.got == id
		})
	}
}

// A pair of which one has no RDMA, or cannot set it up, uses TCP; both ends say so, and why.
func TestFallback(t *testing.T) {
	f := newFabric()
	usual := func() *fakePath { return newFakePath(f, Options{}) }
	failing := func() *fakePath {
		p := usual()
		p.failOpen = errors.New("port 1 of fake0 is not active")
		return p
	}
	mute := func() *fakePath {
		p := usual()
		p.failProbe = errors.New("bytes were not acknowledged")
		return p
	}
	for _, c := range []struct {
		name    string
		paths   [2]func() *fakePath // nil: none
		reasons [2]string
	}{
		{"both have it", [2]func() *fakePath{usual, usual}, [2]string{}},
		{"one has none", [2]func() *fakePath{usual, nil}, [2]string{"member 2: no device here", "no device here"}},
		{"the other has none", [2]func() *fakePath{nil, usual}, [2]string{"no device here", "member 1: no device here"}},
		{"the listener cannot open it", [2]func() *fakePath{failing, usual}, [2]string{"port 1 of fake0 is not active", "member 1: port 1 of fake0 is not active"}},
		{"the dialler cannot open it", [2]func() *fakePath{usual, failing}, [2]string{"member 2: port 1 of fake0 is not active", "port 1 of fake0 is not active"}},
		{"the listener's bytes do not arrive", [2]func() *fakePath{mute, usual}, [2]string{"bytes were not acknowledged", "member 1: bytes were not acknowledged"}},
		{"the dialler's bytes do not arrive", [2]func() *fakePath{usual, mute}, [2]string{"member 2: bytes were not acknowledged", "bytes were not acknowledged"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var members [2]*member
			for i, path := range c.paths {
				if path == nil {
					members[i] = newMember(t, uint8(i+1), nil, "no device here", false)
				} else {
					members[i] = newMember(t, uint8(i+1), path(), "", false)
				}
			}
			connect(members)
			eventually(t, "both are up", func() bool { return members[0].isUp() && members[1].isUp() })
			exchangeMarks(t, members, 7)
			want := "tcp"
			if c.reasons[0] == "" {
				want = "rdma"
			}
			for i, m := range members {
				if transport, reason := m.words(); transport != want || reason != c.reasons[i] {
					t.Errorf("member %d: %q because %q instead of %q", i+1, transport, reason, c.reasons[i])
				}
				if log := m.log.String(); !strings.Contains(log, `"transport":"`+want+`"`) || !strings.Contains(log, c.reasons[i]) {
					t.Errorf("member %d logs %s", i+1, log)
				}
			}
			for _, m := range members {
				_ = m.tcp.Close()
			}
			f.requireClosed(t)
		})
	}
}

// Who is to use nothing but RDMA refuses a peer with which that cannot be, and both say why.
func TestRDMAOnlyRefuses(t *testing.T) {
	f := newFabric()
	for _, c := range []struct {
		name   string
		other  replication.Path
		says   string
		strict int
	}{
		{"the dialler has none", nil, "member 1 is to use nothing but rdma, and member 2 does not: it runs with --transport tcp", 0},
		{"the listener has none", nil, "member 2 is to use nothing but rdma, and member 1 does not: it runs with --transport tcp", 1},
		{"the dialler cannot", func() replication.Path {
			p := newFakePath(f, Options{})
			p.failOpen = errors.New("no memory")
			return p
		}(),
			"member 1 is to use nothing but rdma, and that cannot be set up: member 2: no memory", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var members [2]*member
			members[c.strict] = newMember(t, uint8(c.strict+1), newFakePath(f, Options{}), "", true)
			members[1-c.strict] = newMember(t, uint8(2-c.strict), c.other, "it runs with --transport tcp", false)
			connect(members)
			for _, m := range members {
				eventually(t, "both have logged "+c.says, func() bool { return strings.Contains(m.log.String(), c.says) })
				if m.isUp() {
					t.Error("a channel was set up")
				}
			}
		})
	}
}

// When what has failed may work again, channels that had fallen back are set up anew, and others are left alone: those that had not, and those with a peer that
// has no RDMA, where nothing would come of it but a pause.
func TestRevived(t *testing.T) {
	t.Run("both have it", testRevived)
	t.Run("one has none", func(t *testing.T) {
		path := newFakePath(newFabric(), Options{})
		members := [2]*member{newMember(t, 1, path, "", false), newMember(t, 2, nil, "no device here", false)}
		connect(members)
		eventually(t, "both are up", func() bool { return members[0].isUp() && members[1].isUp() })
		path.revived <- struct{}{}
		path.revived <- struct{}{} // the one before has been heeded when this has been taken
		exchangeMarks(t, members, 1)
		expectChannels(t, members, 1)
	})
}

func testRevived(t *testing.T) {
	f := newFabric()
	broken := newFakePath(f, Options{})
	broken.setFailOpen(errors.New("the link is down"))
	members := [2]*member{newMember(t, 1, newFakePath(f, Options{}), "", false), newMember(t, 2, broken, "", false)}
	connect(members)
	eventually(t, "both are up", func() bool { return members[0].isUp() && members[1].isUp() })
	exchangeMarks(t, members, 1)
	broken.setFailOpen(nil)
	broken.revived <- struct{}{}
	eventually(t, "the channel is back, by RDMA", func() bool {
		one, _ := members[0].words()
		two, _ := members[1].words()
		return one == "rdma" && two == "rdma"
	})
	exchangeMarks(t, members, 2)
	broken.revived <- struct{}{}
	broken.revived <- struct{}{} // the one before has been heeded when this has been taken
	exchangeMarks(t, members, 3)
	expectChannels(t, members, 2)
}

// expectChannels checks how many channels each member has had.
func expectChannels(t *testing.T, members [2]*member, want int) {
	t.Helper()
	for i, m := range members {
		m.mu.Lock()
		if m.ups != want {
			t.Errorf("member %d had %d channels, want %d", i+1, m.ups, want)
		}
		m.mu.Unlock()
	}
}

// A device that says nothing more, and no error either, ends the channel.
func TestSilence(t *testing.T) {
	f := newFabric()
	var wires []*fakeWire
	paths := [2]*fakePath{newFakePath(f, Options{Silence: 50 * time.Millisecond}), newFakePath(f, Options{Silence: time.Hour})}
	paths[0].each = func(w *fakeWire) { wires = append(wires, w) }
	members := [2]*member{newMember(t, 1, paths[0], "", false), newMember(t, 2, paths[1], "", false)}
	connect(members)
	eventually(t, "both are up", func() bool { return members[0].isUp() && members[1].isUp() })
	exchangeMarks(t, members, 1)
	f.mu.Lock()
	wires[0].silent = true
	f.mu.Unlock()
	members[0].send(2, 2)
	eventually(t, "the channel has ended, and another came", func() bool {
		members[0].mu.Lock()
		defer members[0].mu.Unlock()
		return members[0].ups >= 2 && members[0].is
	})
	if log := members[0].log.String(); !strings.Contains(log, "the path to the peer is silent") {
		t.Errorf("member 1 logs %s", log)
	}
}

// A process, or machine, that stood still is late to hear, and late to look: only looks at which nothing was heard end the channel, however long ago the last was.
func TestSilenceIsNotAPause(t *testing.T) {
	ch, w := stuckChannel(t) // everything that was sent is on its way
	const silence = time.Nanosecond
	moves := func() {
		w.fabric.mu.Lock()
		defer w.fabric.mu.Unlock()
		w.complete(completion{id: ch.out.done})
	}
	for range looksPerSilence {
		ch.look(silence)
	}
	moves()
	for range looksPerSilence {
		ch.look(silence)
		if err := ch.Cause(); err != nil {
			t.Fatalf("the channel has ended: %v", err)
		}
	}
	if ch.look(silence); ch.Cause() == nil {
		t.Error("the channel has not ended though nothing was heard all the time")
	}
}

// A frame whose bytes, or whose immediate value, were changed under way ends the channel, and nothing of it is handed over.
func TestDamage(t *testing.T) {
	for name, damage := range map[string]func(w *fakeWire, q *request){
		"a byte": func(w *fakeWire, q *request) { w.send[q.offset+q.length-1] ^= 4 },
		// The credit would be taken for the peer's.
		"the immediate value": func(_ *fakeWire, q *request) { q.imm ^= 1 },
		"the length":          func(w *fakeWire, q *request) { w.send[q.offset] ^= 1 },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFabric()
			path := newFakePath(f, Options{})
			var once sync.Once
			path.each = func(w *fakeWire) {
				w.onPost = func(first uint64, requests []request) error {
					for i := range requests {
						if q := &requests[i]; q.length > 0 && q.imm&immCount == 1 { // when credit has been given, and there is some to take away
							once.Do(func() { damage(w, q) })
						}
					}
					return w.postNow(first, requests)
				}
			}
			members := [2]*member{newMember(t, 1, newFakePath(f, Options{}), "", false), newMember(t, 2, path, "", false)}
			connect(members)
			eventually(t, "both are up", func() bool { return members[0].isUp() && members[1].isUp() })
			members[0].send(2, 1)
			eventually(t, "the first message came", func() bool {
				members[1].mu.Lock()
				defer members[1].mu.Unlock()
				return members[1].got == 1
			})
			eventually(t, "the channel has ended, and another came", func() bool {
				members[1].send(1, 77)
				members[0].mu.Lock()
				defer members[0].mu.Unlock()
				return members[0].ups >= 2
			})
			if log := members[0].log.String(); !strings.Contains(log, errFrameSum.Error()) && !strings.Contains(log, errFrame.Error()) {
				t.Errorf("member 1 logs %s", log)
			}
		})
	}
}

// The connection is the channel's life line: its end ends the channel. That is the only thing here that can tell: the watch looks once in twenty minutes, and the
// peer's queue pair is not closed before its own channel has ended.
func TestLifeLine(t *testing.T) {
	f := newFabric()
	o := Options{Silence: time.Hour}
	members := [2]*member{newMember(t, 1, newFakePath(f, o), "", false), newMember(t, 2, newFakePath(f, o), "", false)}
	connect(members)
	eventually(t, "both are up", func() bool { return members[0].isUp() && members[1].isUp() })
	_ = members[0].tcp.Close()
	eventually(t, "the other notices", func() bool { return !members[1].isUp() })
}
