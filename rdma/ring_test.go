package rdma

import (
	"math/rand/v2"
	"testing"
	"time"
)

// Frames of random sizes go from one ring to the other, are used up, said and completed at random times: no frame is written where one lies that has not been
// used up or where the device may yet read one, both ends agree where each lies, and there is always room again once all that must be said has been said.
func TestRings(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		size, depth := 64<<10<<r.IntN(3), 16<<r.IntN(4)
		out, in := newSendRing(size, depth), newRecvRing(size, depth)
		owner := make([]int, size)   // by byte: the frame that lies there, counted from 1; 0: none
		reading := make([]int, size) // by byte of the ring to send from: the frame that the device may yet read
		type frame struct {
			offset, n int
			end       uint64
		}
		var sent []frame      // not used up yet
		var requested []frame // by request
		done := uint64(0)     // requests that have completed
		var signalled []uint64
		credit := uint32(0) // that the sender will hear of
		frames := 0
		for step := range 3000 {
			switch r.IntN(4) {
			case 0, 1:
				n := frameHead + 1 + r.IntN(1<<r.IntN(15))
				n = min(n, out.frameMax())
				at, room, ok := out.place(n)
				if !ok {
					continue
				}
				if room < n {
					t.Fatalf("seed %d, step %d: room for %d bytes where %d were asked for", seed, step, room, n)
				}
				frames++
				wrapped := out.add(at, n)
				first := out.posted
				if out.post(true, false) {
					signalled = append(signalled, first)
				}
				offset, end, ok := in.arrive(uint32(n), wrapped)
				if !ok || offset != int(at%uint64(size)) {
					t.Fatalf("seed %d, step %d: a frame at %d arrives at %d, %v", seed, step, at, offset, ok)
				}
				for i := range owner[offset : offset+n] {
					if owner[offset+i] != 0 {
						t.Fatalf("seed %d, step %d: frame %d lies on frame %d", seed, step, frames, owner[offset+i])
					}
					if reading[offset+i] != 0 {
						t.Fatalf("seed %d, step %d: frame %d is written over frame %d, which may not have been sent", seed, step, frames, reading[offset+i])
					}
					owner[offset+i], reading[offset+i] = frames, frames
				}
				requested = append(requested, frame{offset, n, end})
				sent = append(sent, frame{offset, n, end})
			case 2:
				if len(sent) == 0 {
					continue
				}
				f := sent[0]
				sent = sent[1:]
				clear(owner[f.offset : f.offset+f.n])
				in.use(f.end)
				if in.owes() || r.IntN(20) == 0 {
					credit = in.say()
				}
			case 3:
				if !out.credit(credit) {
					t.Fatalf("seed %d, step %d: credit %d is refused", seed, step, credit)
				}
				if len(signalled) > 0 && r.IntN(40) == 0 { // late, so that the peer is often ahead
					if !out.completed(signalled[0]) {
						t.Fatalf("seed %d, step %d: a completion is refused", seed, step)
					}
					for ; done <= signalled[0]; done++ {
						f := requested[done]
						clear(reading[f.offset : f.offset+f.n])
					}
					signalled = signalled[1:]
				}
			}
		}
		// The peer uses up everything and says what it must, no more: the largest frame must find room.
		for _, f := range sent {
			if in.use(f.end); in.owes() {
				credit = in.say()
			}
		}
		out.credit(credit)
		for _, id := range signalled {
			out.completed(id)
		}
		if _, _, ok := out.place(out.frameMax()); !ok {
			t.Fatalf("seed %d: no room for a frame after all has been used up: it would wait for ever", seed)
		}
		if frames < 30 {
			t.Fatalf("seed %d: only %d frames", seed, frames)
		}
	}
}

// A few large frames must be signalled too, though they are far from a quarter of the queue: or the ring would be full of what nobody can say has been sent.
func TestLargeFramesAreSignalled(t *testing.T) {
	out, in := newSendRing(64<<10, 8192), newRecvRing(64<<10, 8192)
	for i := range 100 {
		n := out.frameMax() - i
		at, _, ok := out.place(n)
		if !ok {
			t.Fatalf("frame %d finds no room, though all before were used up", i)
		}
		wrapped := out.add(at, n)
		if id := out.posted; out.post(true, false) {
			out.completed(id)
		}
		_, end, _ := in.arrive(uint32(n), wrapped)
		if in.use(end); in.owes() {
			out.credit(in.say())
		}
	}
}

// What a peer that does not keep to the protocol says is refused, before memory is touched.
func TestRingsRefuse(t *testing.T) {
	out, in := newSendRing(64<<10, 16), newRecvRing(64<<10, 16)
	at, _, _ := out.place(100)
	out.add(at, 100)
	if out.credit(1) {
		t.Error("credit for a frame that has not been posted")
	}
	out.post(true, true)
	if out.credit(2) || out.credit(1<<24-1) {
		t.Error("credit for more frames than were sent")
	}
	if !out.credit(1) || !out.credit(1) {
		t.Error("credit for the frame that was sent, and the same again")
	}
	if out.completed(1) || !out.completed(0) || out.completed(0) {
		t.Error("completions of what was not posted, or has completed")
	}
	for _, n := range []uint32{0, frameHead - 1, 64<<10 + 1, 1 << 31} {
		if _, _, ok := in.arrive(n, false); ok {
			t.Errorf("a frame of %d bytes", n)
		}
	}
	for i := range 16 {
		if _, _, ok := in.arrive(4096, false); !ok {
			t.Errorf("frame %d is refused", i)
		}
	}
	if _, _, ok := in.arrive(8, false); ok {
		t.Error("a frame beyond the ring")
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{RingBytes: 100_000}, {RingBytes: 32 << 10}, {Depth: 15}, {Depth: 1 << 14}, {Peers: -1}} {
		if o.complete() == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
	var o Options
	if err := o.complete(); err != nil {
		t.Fatal(err)
	}
	if n := o.MemoryPerPeer(); n < 2<<20 || n > 2<<20+200<<10 {
		t.Errorf("%d bytes of locked memory for a peer; docs/rdma.md says 2.1 MiB", n)
	}
	for detection, want := range map[time.Duration]uint8{time.Millisecond: 2, 201 * time.Millisecond: 2, 202 * time.Millisecond: 3, o.Detection: 3,
		536 * time.Millisecond: 7, time.Hour: 7} {
		o.Detection = detection
		if timeout, retries := o.timeouts(); timeout != 14 || retries != want {
			t.Errorf("detection %v: timeout %d, %d retries instead of %d", detection, timeout, retries, want)
		}
	}
}
