package views

import (
	"bytes"
	"net"
	"testing"
	"time"
)

// leaderEnd is where the heartbeats of a test go.
type leaderEnd struct {
	net.Listener
	t *testing.T
}

func newLeaderEnd(t *testing.T) (*leaderEnd, *link) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newLink(listener.Addr().String(), beats, time.Minute, dialTCP)
	t.Cleanup(func() { l.close(); listener.Close() })
	return &leaderEnd{listener, t}, l
}

// accept takes a connection, and reads what it begins with.
func (e *leaderEnd) accept() *beatConn {
	e.t.Helper()
	conn, err := e.Accept()
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { conn.Close() })
	hello := make([]byte, len(Magic)+1)
	if _, err := conn.Read(hello); err != nil || string(hello) != Magic+string(rune(forBeats)) {
		e.t.Fatalf("it begins with %q, %v", hello, err)
	}
	return newBeatConn(conn)
}

func (e *leaderEnd) read(b *beatConn) (h Heartbeat) {
	e.t.Helper()
	if err := b.dec.Decode(&h); err != nil {
		e.t.Fatal(err)
	}
	return h
}

type beatResult struct {
	sent   int64
	answer *Answer
	err    error
}

// beat sends a heartbeat; what becomes of it comes in results.
func beat(l *link, sent int64, results chan<- beatResult) {
	reply := new(Answer)
	l.call("", Heartbeat{From: Member{Number: 2, Incarnation: 7}, Sent: sent}, reply, func(err error) { results <- beatResult{sent, reply, err} })
}

func TestAnswersComeToTheirHeartbeats(t *testing.T) {
	leader, l := newLeaderEnd(t)
	results := make(chan beatResult, 10)
	beat(l, 11, results)
	conn := leader.accept()
	beat(l, 12, results)
	for _, want := range []int64{11, 12} {
		if h := leader.read(conn); h.Sent != want || h.From.Number != 2 {
			t.Errorf("a heartbeat of %v from %d has come, not one from %d", h.From, h.Sent, want)
		}
	}
	for _, sent := range []int64{99, 12, 11, 11} { // one that nobody has sent; and in another order than sent; and twice
		if err := conn.write(&Answer{Sent: sent, Lease: uint64(sent), View: View{Epoch: 3}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int64{12, 11} {
		r := <-results
		if r.err != nil || r.sent != want || r.answer.Sent != want || r.answer.Lease != uint64(want) || r.answer.View.Epoch != 3 {
			t.Errorf("heartbeat %d is answered by %+v, %v", r.sent, r.answer, r.err)
		}
	}
	beat(l, 13, results) // nothing of the last answer is left in the way
	if leader.read(conn).Sent != 13 {
		t.Error("another heartbeat has come than was sent")
	}
	conn.write(&Answer{Sent: 13})
	if r := <-results; r.sent != 13 || r.err != nil || r.answer.Lease != 0 || r.answer.View.Epoch != 0 {
		t.Errorf("heartbeat %d is answered by %+v, %v", r.sent, r.answer, r.err)
	}
}

func TestBrokenConnectionFailsHeartbeatsOnce(t *testing.T) {
	for name, end := range map[string]func(*beatConn){
		"closed":                 func(b *beatConn) { b.Close() },
		"answers that are none":  func(b *beatConn) { b.Conn.Write(bytes.Repeat([]byte("SERVER_ERROR out of memory\r\n"), 10)) },
		"answer broken off":      func(b *beatConn) { b.Conn.Write([]byte{0x7f, 1, 2}); b.Close() },
		"a message of 2^62 byte": func(b *beatConn) { b.Conn.Write([]byte{0xf8, 0x40, 0, 0, 0, 0, 0, 0, 0}) },
	} {
		t.Run(name, func(t *testing.T) {
			leader, l := newLeaderEnd(t)
			results := make(chan beatResult, 10)
			beat(l, 1, results)
			conn := leader.accept()
			beat(l, 2, results)
			leader.read(conn)
			leader.read(conn)
			end(conn)
			failed := map[int64]bool{}
			for range 2 {
				r := <-results
				if failed[r.sent] || r.err == nil {
					t.Errorf("heartbeat %d: %v, told before: %v", r.sent, r.err, failed[r.sent])
				}
				failed[r.sent] = true
			}
			beat(l, 3, results)
			again := leader.accept()
			leader.read(again)
			again.write(&Answer{Sent: 3})
			if r := <-results; r.sent != 3 || r.err != nil {
				t.Errorf("on a new connection, heartbeat %d: %v", r.sent, r.err)
			}
		})
	}
}

// TestGarbageEndsABeatConnection: of a heartbeat's sender.
func TestGarbageEndsABeatConnection(t *testing.T) {
	c := newCluster(t, DefaultTiming, 0, 1)
	c.start(1)
	c.serve(1)
	for _, garbage := range []string{"get key\r\nget key\r\n", "\x03\xff\x80", "\xf8\x7f\xff\xff\xff\xff\xff\xff\xff"} {
		conn, err := dialer(dialTCP).open(c.address(1), string(rune(forBeats)), patience)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte(garbage))
		conn.(*net.TCPConn).CloseWrite()
		conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("after %q: %v", garbage, err)
		} else if timeout, is := err.(net.Error); is && timeout.Timeout() {
			t.Errorf("after %q it stays open", garbage)
		}
		conn.Close()
	}
	c.serve(1)
}

// TestWhoDoesNotReadItsAnswersIsDropped, and holds nobody up meanwhile.
func TestWhoDoesNotReadItsAnswersIsDropped(t *testing.T) {
	c := newCluster(t, DefaultTiming, 0, 1)
	c.start(1)
	c.serve(1)
	conn, err := dialer(dialTCP).open(c.address(1), string(rune(forBeats)), patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetWriteDeadline(time.Now().Add(patience))
	b := newBeatConn(conn)
	for sent := int64(1); err == nil; sent++ {
		err = b.write(Heartbeat{From: Member{Number: 2, Incarnation: 7}, Server: "2-x", Sent: sent})
	}
	if timeout, is := err.(net.Error); is && timeout.Timeout() {
		t.Errorf("it is not dropped: %v", err)
	}
	if !c.serving(1) {
		t.Error("the replica has lost its lease meanwhile")
	}
}
