package main

import (
	"os"
	"strings"
	"testing"

	"hermesd/bench/livetest"
	"hermesd/rdma"
)

// A binary without RDMA says how to get one with it, serves by TCP, says so in its log, and does not start where nothing but RDMA will do.
func TestWithoutRDMA(t *testing.T) {
	if rdma.Built {
		t.Skip("this test is of a binary without RDMA")
	}
	binary := livetest.Binary(t)
	list := livetest.Start(t, binary, "rdma")
	if status := list.Wait(t); status != 1 || !strings.Contains(list.Stderr(), "make rdma") {
		t.Errorf("hermesd rdma: status %d: %s", status, list.Output())
	}
	group := "1=" + livetest.Loopback(livetest.FreePorts(t, 2)) + ",2=127.0.0.1:1"
	refused := livetest.Start(t, binary, "-p", "0", "--transport", "rdma", "--id", "1", "--group", group, "--data-dir", t.TempDir())
	if status := refused.Wait(t); status != 1 || !strings.Contains(refused.Stderr(), "--transport rdma: this binary was built without RDMA") {
		t.Errorf("--transport rdma: status %d: %s", status, refused.Output())
	}
	auto := livetest.Start(t, binary, "-p", "0", "--id", "1", "--group", group, "--data-dir", t.TempDir())
	auto.AwaitStderr(t, "replication goes over TCP")
	if !strings.Contains(auto.Stderr(), "built without RDMA") {
		t.Errorf("the log does not say why: %s", auto.Stderr())
	}
	auto.Signal(t, os.Interrupt)
	auto.Wait(t)
}

// stats replication says how each other replica is reached.
func TestStatsSayTheTransport(t *testing.T) {
	g := livetest.StartGroup(t, livetest.GroupConfig{Replicas: 2, Witness: true})
	stats := command(t, portOf(t, g.Clients[0]), "stats replication")
	if !strings.Contains(stats, "STAT peer:2:transport tcp\r\n") || !strings.Contains(stats, "STAT peer:2:transport_reason ") {
		t.Errorf("stats replication:\n%s", stats)
	}
}
