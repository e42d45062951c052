package replication

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSilenceIsNoticedInTime: a channel on which nothing is acknowledged ends after half of unreachable-after, so that a member that was cut off
// without a word is reported when the operator has said, and not when TCP gives up.
func TestSilenceIsNoticedInTime(t *testing.T) {
	for unreachable, want := range map[time.Duration]time.Duration{
		4 * time.Second: 2 * time.Second, time.Second: 500 * time.Millisecond, 115 * time.Millisecond: 500 * time.Millisecond,
	} {
		if got := peerTimeout(unreachable); got != want {
			t.Errorf("unreachable-after %v: channels end after %v of silence, want %v", unreachable, got, want)
		}
	}
	c := newCluster(t, clusterOptions{replicas: 2, memoryBytes: 16 << 20, itemSizeMax: 64 << 10})
	for i, n := range c.nodes {
		peer := n.transport.(*TCP).peers[2-i].Load()
		await(t, "the channel is up", func() bool { return peer.channel.Load() != nil })
		raw, err := peer.channel.Load().conn.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var got int
		if controlErr := raw.Control(func(fd uintptr) {
			got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		}); controlErr != nil || err != nil {
			t.Fatal(controlErr, err)
		}
		if want := peerTimeout(n.cfg.Unreachable); time.Duration(got)*time.Millisecond != want {
			t.Errorf("replica %d: the kernel ends the channel after %d ms of silence, want %v", i+1, got, want)
		}
	}
}
