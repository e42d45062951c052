package livetest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// Ports from lowestPort on, portRange of them, are looked through for free ones. They lie below those that the kernel gives to
// sockets that do not ask for one, of which this machine's other tests use many.
const (
	lowestPort = 15000
	portRange  = 16000
)

// FreePorts returns the first of n ports in a row of the loopback interface on which nobody listens. Somebody else may take one before the
// caller does.
func FreePorts(t testing.TB, n int) int {
	t.Helper()
	for range 1000 {
		first := lowestPort + rand.IntN(portRange)
		if free(first, n) {
			return first
		}
	}
	t.Fatalf("no %d free ports in a row in %d..%d", n, lowestPort, lowestPort+portRange)
	return 0
}

func free(first, n int) bool {
	for port := first; port < first+n; port++ {
		l, err := net.Listen("tcp", Loopback(port))
		if err != nil {
			return false
		}
		_ = l.Close()
	}
	return true
}

// Loopback is the address of a port of the loopback interface.
func Loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func groupText(ports []int) string {
	text := ""
	for i, port := range ports {
		text += fmt.Sprintf(",%d=%s", i+1, Loopback(port))
	}
	return text[1:]
}
