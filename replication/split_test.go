package replication

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// splitWith returns the two sides of a listener that splits with these limits, and ends with the test.
func splitWith(t *testing.T, timeout time.Duration, undecided, backlog int) (data, control net.Listener) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newSplitter(ln, timeout, undecided, backlog)
	t.Cleanup(func() {
		_ = s.data.Close()
		_ = s.control.Close()
	})
	return s.data, s.control
}

func dialTo(t *testing.T, ln net.Listener) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

func say(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// accept takes the next connection of a side.
func accept(t *testing.T, ln net.Listener) *net.TCPConn {
	t.Helper()
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// requireText reads what a connection brings until the other end closes its direction.
func requireText(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != want {
		t.Errorf("read %q, %v instead of %q", got, err, want)
	}
}

// requireClosed fails unless the other end closes c without a word.
func requireClosed(t *testing.T, c net.Conn) {
	t.Helper()
	n, err := c.Read(make([]byte, 1))
	var timeout net.Error
	if n != 0 || err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("read %d bytes, %v from a connection that should have been closed", n, err)
	}
}

// The first bytes decide, however they come: the data side finds all of them, the control side what follows its magic.
func TestSplitByFirstBytes(t *testing.T) {
	for _, c := range []struct {
		name    string
		pieces  []string
		control bool
		left    string
	}{
		{"control", []string{ControlMagic + "raft"}, true, "raft"},
		{"control, nothing more", []string{ControlMagic}, true, ""},
		{"control, byte by byte", []string{"h", "e", "r", "m", "e", "s", "C", "\n"}, true, ""},
		{"control in two pieces", []string{"herm", "esC\nand more"}, true, "and more"},
		{"data", []string{string(greetMagic[:]) + "HELLO"}, false, "hermesd\nHELLO"},
		{"data, byte by byte", []string{"h", "e", "r", "m", "e", "s", "d"}, false, "hermesd"},
		{"another line end", []string{"hermesC", "\r\n"}, false, "hermesC\r\n"},
		{"something shorter", []string{"get x"}, false, "get x"},
		{"one byte", []string{"\x00"}, false, "\x00"},
		{"partly the magic", []string{"her", "o\r\n"}, false, "hero\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			data, control := splitWith(t, patience, 8, 8)
			client := dialTo(t, data)
			for _, piece := range c.pieces {
				say(t, client, piece)
			}
			side := data
			if c.control {
				side = control
			}
			got := accept(t, side)
			_ = client.CloseWrite()
			requireText(t, got, c.left)
			say(t, got, "answer")
			_ = got.Close()
			requireText(t, client, "answer")
		})
	}
}

// The bytes decide as soon as they can: a client that says something short and then waits for an answer is not kept.
func TestSplitWaitsForNoMoreThanItNeeds(t *testing.T) {
	data, control := splitWith(t, patience, 8, 8)
	slow := dialTo(t, data)
	say(t, slow, "hermes") // may become either
	quick := dialTo(t, data)
	say(t, quick, "hermesd") // cannot become control
	requireBegins(t, accept(t, data), "hermesd")
	say(t, slow, "C\nx")
	requireBegins(t, accept(t, control), "x")
}

func requireBegins(t *testing.T, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Errorf("read %q, %v instead of %q", b, err, want)
	}
}

// Clients that say nothing are closed when their time is over, and those that vanish at once; nobody else notices.
func TestSplitOfClientsThatSayNothing(t *testing.T) {
	t.Run("silent", func(t *testing.T) {
		data, _ := splitWith(t, 20*time.Millisecond, 8, 8)
		requireClosed(t, dialTo(t, data))
	})
	t.Run("half said", func(t *testing.T) {
		data, _ := splitWith(t, 20*time.Millisecond, 8, 8)
		c := dialTo(t, data)
		say(t, c, "hermes")
		requireClosed(t, c)
	})
	t.Run("closed", func(t *testing.T) {
		data, _ := splitWith(t, patience, 8, 8)
		c := dialTo(t, data)
		_ = c.CloseWrite()
		requireClosed(t, c)
	})
	t.Run("half said and closed", func(t *testing.T) {
		data, _ := splitWith(t, 2*patience, 8, 8)
		c := dialTo(t, data)
		say(t, c, "hermesC")
		_ = c.CloseWrite()
		requireClosed(t, c) // before the timeout: see dialTo
	})
	t.Run("reset", func(t *testing.T) {
		const clients = 20 // more than may be undecided: each must give its place back
		data, control := splitWith(t, 2*patience, 1, 8)
		for range clients {
			c := dialTo(t, data)
			say(t, c, "her")
			_ = c.SetLinger(0)
			_ = c.Close()
		}
		client, server := knock(t, control)
		say(t, client, "more")
		requireBegins(t, server, "more")
	})
}

// knock dials, and says the control plane's magic, until a connection is not closed for want of room, and returns both its ends.
func knock(t *testing.T, control net.Listener) (client, server net.Conn) {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := control.Accept() // an error is the test's end
		accepted <- c
	}()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		c := dialTo(t, control)
		turnedAway := make(chan struct{})
		go func() {
			defer close(turnedAway)
			_, _ = c.Read(make([]byte, 1)) // who is let in reads nothing: there is nothing to read
		}()
		_, _ = io.WriteString(c, ControlMagic)
		select {
		case server := <-accepted:
			t.Cleanup(func() { _ = server.Close() })
			_ = server.SetDeadline(time.Now().Add(patience))
			return c, server
		case <-turnedAway:
		}
	}
	t.Fatal("no connection was let in")
	return nil, nil
}

// Only so many connections may be undecided; one more is closed, and there is room again when one of them has decided.
func TestSplitBoundsTheUndecided(t *testing.T) {
	data, control := splitWith(t, patience, 2, 8)
	first, second := dialTo(t, data), dialTo(t, data)
	requireClosed(t, dialTo(t, data))
	say(t, first, string(greetMagic[:]))
	requireBegins(t, accept(t, data), "hermesd\n")
	knock(t, control)
	say(t, second, ControlMagic+"2")
	requireBegins(t, accept(t, control), "2")
}

// A side that does not accept fills only its own backlog.
func TestSplitBoundsTheBacklog(t *testing.T) {
	data, control := splitWith(t, patience, 8, 2)
	for range 2 {
		say(t, dialTo(t, data), "x")
	}
	// Those two may not have been decided yet: so it is not always the third that is closed.
	for closed := false; !closed; {
		c := dialTo(t, data)
		say(t, c, "x")
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		_, err := c.Read(make([]byte, 1))
		var timeout net.Error
		closed = !(errors.As(err, &timeout) && timeout.Timeout())
	}
	say(t, dialTo(t, data), ControlMagic+"passes by")
	requireBegins(t, accept(t, control), "passes by")
	requireBegins(t, accept(t, data), "x")
	requireBegins(t, accept(t, data), "x")
}

// Closing one side leaves the other; closing both ends all that is under way and gives the port back.
func TestSplitClose(t *testing.T) {
	for _, first := range []string{"data", "control"} {
		t.Run(first+" first", func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			data, control := Split(ln)
			closing, staying, toClosing, toStaying := data, control, "x", ControlMagic+"stay"
			if first == "control" {
				closing, staying, toClosing, toStaying = control, data, ControlMagic, "stay"
			}
			var accepting sync.WaitGroup
			accepting.Go(func() {
				if c, err := closing.Accept(); !errors.Is(err, net.ErrClosed) {
					t.Errorf("Accept of the side that was closed: %v, %v", c, err)
				}
			})
			for range 2 {
				if err := closing.Close(); err != nil {
					t.Error(err)
				}
			}
			accepting.Wait()
			c := dialTo(t, staying)
			say(t, c, toClosing)
			requireClosed(t, c)
			say(t, dialTo(t, staying), toStaying)
			requireBegins(t, accept(t, staying), "stay")

			undecided, waiting := dialTo(t, staying), dialTo(t, staying)
			say(t, undecided, "herm")
			say(t, waiting, toStaying)
			address := staying.Addr().String()
			if err := staying.Close(); err != nil {
				t.Error(err)
			}
			requireClosed(t, undecided)
			requireClosed(t, waiting)
			if _, err := staying.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Accept after Close: %v", err)
			}
			again, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal("the port was not given back: ", err)
			}
			_ = again.Close()
		})
	}
}

// A listener that fails is reported to both sides, by each once for a failure that passes and always when it is closed.
func TestSplitOfAListenerThatFails(t *testing.T) {
	passing := errors.New("too many open files")
	ln := &failingListener{results: make(chan error, 2)}
	s := newSplitter(ln, patience, 8, 8)
	ln.results <- passing
	for _, side := range []net.Listener{s.data, s.control} {
		if _, err := side.Accept(); err != passing {
			t.Errorf("Accept: %v", err)
		}
	}
	ln.results <- net.ErrClosed
	for _, side := range []net.Listener{s.data, s.control, s.data, s.control} {
		if _, err := side.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v", err)
		}
	}
	_ = s.data.Close()
	_ = s.control.Close()
}

type failingListener struct{ results chan error }

func (l *failingListener) Accept() (net.Conn, error) { return nil, <-l.results }
func (l *failingListener) Close() error              { return nil }
func (l *failingListener) Addr() net.Addr            { return &net.TCPAddr{} }

// A data channel works behind a splitter, and who talks something else is told so.
func TestTCPBehindASplitter(t *testing.T) {
	data, control := splitWith(t, patience, 8, 8)
	tcp, err := NewTCP(TCPConfig{Self: life(1, 1), Listener: data, Logger: zerolog.Nop(), ValueMax: 1000, HoldTimeout: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	if err := tcp.Start(nil); err != nil {
		t.Fatal(err)
	}
	c := dialTo(t, data)
	say(t, c, "version\r\n")
	requireText(t, c, notOurs)
	c = dialTo(t, data)
	if _, err := c.Write(tcp.hello(life(2, 1), life(1, 1))); err != nil {
		t.Fatal(err)
	}
	var r *refusal
	if _, err := readHello(c); !errors.As(err, &r) || r.text != "member 2 (incarnation 1) is not in the view of member 1" || !r.notYet {
		t.Errorf("answered %v", err)
	}
	say(t, dialTo(t, data), ControlMagic+"x")
	requireBegins(t, accept(t, control), "x")
}
