package views

import (
	"errors"
	"net"
	"slices"
	"sync"
	"time"
)

// network is what the control connections of a test's servers go through. It can break between two of them, and leave every other connection as it is.
type network struct {
	mu     sync.Mutex
	owner  map[string]uint8     // address -> number
	broken map[[2]uint8]failure // by the lower number and the higher
	wires  []*wire
}

// failure is how a network breaks.
type failure uint8

const (
	lineWhole    failure = iota
	lineCut              // connections break, and nobody can connect
	lineMute             // nothing arrives, and nobody is told
	lineDeafLow          // nothing arrives at the one with the lower number
	lineDeafHigh         // or the higher
)

func pair(a, b uint8) [2]uint8 { return [2]uint8{min(a, b), max(a, b)} }

// wire is one connection.
type wire struct {
	net.Conn
	n    *network
	from uint8 // who has made it
	ends [2]uint8
}

// swallowed: what from's end reads (or, not reads, writes) goes nowhere.
func (w *wire) swallowed(reads bool) bool {
	switch w.n.state(w.ends) {
	case lineMute:
		return true
	case lineDeafLow:
		return reads == (w.from == w.ends[0])
	case lineDeafHigh:
		return reads == (w.from == w.ends[1])
	}
	return false
}

func newNetwork() *network {
	return &network{owner: map[string]uint8{}, broken: map[[2]uint8]failure{}}
}

func (n *network) state(ends [2]uint8) failure {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.broken[ends]
}

// dialer is that of a server.
func (n *network) dialer(from uint8) dialer {
	return func(address string, timeout time.Duration) (net.Conn, error) {
		n.mu.Lock()
		ends := pair(from, n.owner[address])
		n.mu.Unlock()
		switch n.state(ends) {
		case lineCut:
			return nil, errors.New("connection refused by the test's network")
		case lineMute:
			<-time.After(timeout)
			return nil, errors.New("the test's network has lost the connection's first message")
		}
		c, err := dialTCP(address, timeout)
		if err != nil {
			return nil, err
		}
		w := &wire{Conn: c, n: n, from: from, ends: ends}
		n.mu.Lock()
		n.wires = append(n.wires, w)
		n.mu.Unlock()
		return w, nil
	}
}

// set breaks the network between two servers, or mends it. Connections do not survive a change, unless they are to fall silent.
func (n *network) set(a, b uint8, f failure) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.broken[pair(a, b)] = f
	if f != lineWhole && f != lineCut {
		return
	}
	n.wires = slices.DeleteFunc(n.wires, func(w *wire) bool {
		if w.ends == pair(a, b) {
			w.Close()
			return true
		}
		return false
	})
}

func (w *wire) Read(b []byte) (int, error) {
	for {
		n, err := w.Conn.Read(b)
		if err != nil || !w.swallowed(true) {
			return n, err
		}
	}
}

func (w *wire) Write(b []byte) (int, error) {
	if w.swallowed(false) {
		return len(b), nil
	}
	return w.Conn.Write(b)
}
