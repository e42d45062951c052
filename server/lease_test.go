package server

import "testing"

// Without its lease a replica answers nothing from what it holds, and begins nothing.
func TestNothingIsServedWithoutALease(t *testing.T) {
	store := newFakeStore(1, 1)
	c := dial(t, startServer(t, store))
	c.send("set k 0 0 1\r\n1\r\n")
	c.want("STORED\r\n")
	store.noLease.Store(true)
	const refused = "SERVER_ERROR the fake says so\r\n"
	for _, request := range []string{"get k\r\n", "gets k k2\r\n", "gat 0 k\r\n", "set k 0 0 1\r\n2\r\n", "add k 0 0 1\r\n2\r\n", "cas k 0 0 1 7\r\n2\r\n",
		"incr k 1\r\n", "touch k 0\r\n", "delete k\r\n", "flush_all\r\n"} {
		c.send(request)
		c.want(refused)
	}
	store.noLease.Store(false)
	c.send("get k\r\n")
	c.want("VALUE k 0 1\r\n1\r\nEND\r\n")
}
