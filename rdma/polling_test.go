package rdma

import (
	"testing"

	"hermesd/replication"
)

// stuckChannel is a channel whose ring is full and whose device says nothing, so that it is stuck; what comes is put into its completion queue by the test.
func stuckChannel(t *testing.T) (*channel, *fakeWire) {
	t.Helper()
	f, o := newFabric(), &Options{RingBytes: 64 << 10, Depth: 16}
	w := f.newWire(o)
	w.peer, w.silent = f.newWire(o), true
	ch := newChannel(w, o, new(Counters), 0, channelConfig(2))
	ch.Open()
	for !ch.isStuck() {
		ch.Send(&replication.Message{Kind: replication.MARK})
		ch.Flush()
	}
	<-ch.stuck // Write has been told
	t.Cleanup(ch.Close)
	return ch, w
}

func (w *fakeWire) arrive(length uint32) {
	w.fabric.mu.Lock()
	defer w.fabric.mu.Unlock()
	w.complete(completion{receive: 1, imm: immData, length: length})
}

// What has been polled for Read must not lie in the queue until something else comes: the peer may send nothing before it has the answer. Read and Write run at the
// same time; here one goroutine does their steps in the order that goes wrong.
func TestReadIsNotForgotten(t *testing.T) {
	t.Run("Write sleeps only if Read does not wait", func(t *testing.T) {
		ch, w := stuckChannel(t)
		w.wake() // a sleep would end at once; that there is none is the test
		if got := ch.announce(nil); len(got) != 0 {
			t.Fatalf("%d frames, none has come", len(got))
		}
		w.arrive(64)
		ch.polling.Lock()
		defer ch.polling.Unlock()
		if _, err := ch.pump(false); err != nil { // the watch
			t.Fatal(err)
		}
		if err := ch.pumpOrSleep(); err != nil || ch.counters.waits.Load() != 0 {
			t.Errorf("Write sleeps, %v, while Read waits for polling and %d frame lies in the queue", err, len(ch.queue))
		}
	})
	t.Run("Read looks at the queue after it has said that it waits", func(t *testing.T) {
		ch, w := stuckChannel(t)
		w.arrive(64)
		ch.polling.Lock() // Write, which has polled before that was said, and sleeps
		defer ch.polling.Unlock()
		if _, err := ch.pump(false); err != nil {
			t.Fatal(err)
		}
		if got := ch.announce(nil); len(got) != 1 || ch.readWaits.Load() {
			t.Errorf("%d frames, and Read waits: %v", len(got), ch.readWaits.Load())
		}
		select {
		case <-ch.stuck:
		default:
			t.Error("Write is not told that what waits for credit is its own again")
		}
	})
}
