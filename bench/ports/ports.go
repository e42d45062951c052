// Package ports hands out ports of the loopback interface to servers that are about to be started, such that no two callers get the
// same one, whichever process they are in: the packages of `go test ./...` run side by side, and a port that is free when one looks is
// somebody else's when the server that was meant for it listens.
//
// The ports come in blocks. A process owns a block by listening on its first port for as long as it runs, so nothing is left behind by
// one that was killed, and goes round in it, so that a port which a server has just left comes last. They lie below those that the
// kernel gives to sockets that do not ask for one (see ip-local-port-range), of which a load has many: such a socket would keep a server
// that was killed from its port, or even reach itself there.
package ports

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
)

const (
	lowest    = 15000
	blockSize = 500 // the first is the lock
	blocks    = 32
)

// owned is this process's block.
var owned struct {
	sync.Mutex
	lock net.Listener // nil until the first call
	base int
	next int // offset from base of the port to be given out next
}

// Reserve returns the first of n ports in a row (1 to 499) on which nobody listens, and which no other caller of Reserve was given lately.
// It fails if there are none.
func Reserve(n int) (first int, err error) {
	owned.Lock()
	defer owned.Unlock()
	if owned.lock == nil {
		if err := own(); err != nil {
			return 0, err
		}
	}
	for try := 0; n < blockSize && try < 2*blockSize; try++ {
		if owned.next+n > blockSize {
			owned.next = 1
		}
		first = owned.base + owned.next
		taken := firstTaken(first, n)
		if taken < 0 {
			owned.next += n
			return first, nil
		}
		owned.next += taken + 1
	}
	return 0, fmt.Errorf("no %d free ports in a row in %d..%d", n, owned.base+1, owned.base+blockSize-1)
}

// own takes a block that nobody has.
func own() error {
	var errs []error
	for i := range blocks {
		base := lowest + i*blockSize
		l, err := net.Listen("tcp", Loopback(base))
		if err == nil {
			owned.lock, owned.base, owned.next = l, base, 1
			return nil
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("no block of free ports: %w", errors.Join(errs...))
}

// firstTaken returns which of n ports from first on, counted from 0, is the first that cannot be listened on; -1 if all can.
func firstTaken(first, n int) int {
	for i := range n {
		l, err := net.Listen("tcp", Loopback(first+i))
		if err != nil {
			return i
		}
		_ = l.Close()
	}
	return -1
}

// Loopback is the address of a port of the loopback interface.
func Loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
