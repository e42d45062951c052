package views

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Magic is how a control connection begins on the listener that it shares with the data channels. The next byte says what it is for.
const Magic = "hermesC\n"

const (
	forRaft  = 'R' // then a byte for the length of the name of the raft server that is meant, and the name
	forCalls = 'C' // net/rpc
	forBeats = 'H' // heartbeats and their answers, see beats.go
)

// helloTimeout bounds how long a connection may take to say what it is for.
const helloTimeout = 3 * time.Second

// dialer makes a connection to host:port.
type dialer func(address string, timeout time.Duration) (net.Conn, error)

func dialTCP(address string, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", address, timeout)
}

// open makes a control connection and says what it is for.
func (d dialer) open(address string, hello string, timeout time.Duration) (net.Conn, error) {
	conn, err := d(address, timeout)
	if err != nil {
		return nil, err
	}
	conn.SetWriteDeadline(time.Now().Add(timeout))
	if _, err := io.WriteString(conn, Magic+hello); err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetWriteDeadline(time.Time{})
	return conn, nil
}

// streams is raft's StreamLayer on the shared listener. A connection names the raft server that it wants: a process that has lost its
// data directory must not answer for the one that it was before, whose vote and log it has forgotten.
type streams struct {
	address string // this server's, as the group knows it
	server  string
	dialer  dialer
	raft    chan net.Conn
	quit    chan struct{}
	once    sync.Once

	mu        sync.Mutex
	open      map[net.Conn]struct{} // of others' calls
	lazyConns map[*lazyConn]struct{}
}

func newStreams(address, server string, d dialer) *streams {
	return &streams{address: address, server: server, dialer: d, raft: make(chan net.Conn), quit: make(chan struct{}), open: map[net.Conn]struct{}{}, lazyConns: map[*lazyConn]struct{}{}}
}

// serve takes control connections from the listener until it is closed; serving has a function for each kind that is not raft's.
func (s *streams) serve(l net.Listener, serving map[byte]func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go s.sort(conn, serving)
	}
}

func (s *streams) sort(conn net.Conn, serving map[byte]func(net.Conn)) {
	conn.SetReadDeadline(time.Now().Add(helloTimeout))
	kind, err := readHello(conn, s.server)
	if err != nil {
		conn.Close()
		return
	}
	conn.SetReadDeadline(time.Time{})
	if kind == forRaft {
		select {
		case s.raft <- conn:
		case <-s.quit:
			conn.Close()
		}
		return
	}
	if s.add(conn) {
		serving[kind](conn)
		s.remove(conn)
	}
	conn.Close()
}

func readHello(conn io.Reader, server string) (kind byte, err error) {
	var b [2]byte
	if _, err := io.ReadFull(conn, b[:1]); err != nil || b[0] == forCalls || b[0] == forBeats {
		return b[0], err
	}
	if b[0] != forRaft {
		return 0, fmt.Errorf("a control connection is for raft, calls or heartbeats, not %q", b[0])
	}
	if _, err := io.ReadFull(conn, b[1:]); err != nil {
		return 0, err
	}
	name := make([]byte, b[1])
	if _, err := io.ReadFull(conn, name); err != nil {
		return 0, err
	}
	if string(name) != server {
		return 0, fmt.Errorf("raft server %s is wanted, this is %s", name, server)
	}
	return forRaft, nil
}

func (s *streams) add(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.quit:
		return false
	default:
		s.open[conn] = struct{}{}
		return true
	}
}

func (s *streams) remove(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, conn)
}

// Accept, Close and Addr make it a net.Listener, for raft.
func (s *streams) Accept() (net.Conn, error) {
	select {
	case conn := <-s.raft:
		return conn, nil
	case <-s.quit:
		return nil, errors.New("closed")
	}
}

func (s *streams) Close() error {
	s.once.Do(func() { close(s.quit) })
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.open {
		conn.Close()
	}
	return nil
}

func (s *streams) Addr() net.Addr { return address(s.address) }

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// Dial connects to host:port/server, which is how target writes it.
func (s *streams) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	host, server, _ := strings.Cut(string(to), "/")
	conn, err := s.dialer.open(host, string([]byte{forRaft, byte(len(server))})+server, timeout)
	if err != nil {
		return nil, err
	}
	return s.lazy(conn), nil
}

// targets is raft's ServerAddressProvider: an address with the name of the server that is meant.
type targets struct{ of func(raft.ServerID) string }

func (t targets) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	a := t.of(id)
	if a == "" {
		return "", fmt.Errorf("raft server %s is not of the group", id)
	}
	return raft.ServerAddress(a + "/" + string(id)), nil
}

// plain takes the name off again.
func plain(a raft.ServerAddress) string {
	host, _, _ := strings.Cut(string(a), "/")
	return host
}
