package server

import (
	"net"
	"syscall"
	"testing"
)

// A pass allocates nothing: what is left is netpoll's own per event.
func TestPassesDoNotAllocate(t *testing.T) {
	s := startAlone(t)
	for _, c := range []struct{ name, in string }{
		{"get", "get k\r\n"},
		{"a miss", "get no\r\n"},
		{"a pipeline of gets", "get k\r\nget k\r\ngets k k\r\nget k no k\r\n"},
		{"set", set("k", "some value")},
		{"incr", "set n 0 0 1 noreply\r\n5\r\nincr n 1\r\n"},
		{"touch", "touch k 0\r\n"},
		{"delete", set("d", "v") + "delete d\r\n"},
	} {
		fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		conn := newConn(s, fds[0], &net.TCPAddr{})
		chunk, buf := []byte(c.in), make([]byte, 64<<10)
		allocs := testing.AllocsPerRun(500, func() {
			conn.mu.Lock()
			conn.pass(chunk)
			conn.unlock()
			if _, err := syscall.Read(fds[1], buf); err != nil {
				t.Fatal(err)
			}
		})
		_, _ = syscall.Close(fds[0]), syscall.Close(fds[1])
		if allocs >= 1 {
			t.Errorf("%s: %v allocations for each pass", c.name, allocs)
		}
	}
}
