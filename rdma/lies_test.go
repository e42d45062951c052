package rdma

import (
	"encoding/binary"
	"testing"

	"hermesd/replication"
)

// FuzzPeerLies has a peer write anything into the ring and say anything of it: each completion takes an immediate value and a length, 8 bytes, from says. Frames
// that are handed over lie in the ring, what is held for the peer is bounded, and in the end the channel has broken or goes on; it does not panic or loop.
func FuzzPeerLies(f *testing.F) {
	say := func(words ...uint32) (b []byte) {
		for _, w := range words {
			b = binary.LittleEndian.AppendUint32(b, w)
		}
		return b
	}
	f.Add([]byte{}, say(immData, 64, immData|immWrapped, 64, immData|immMore, 8))
	f.Add([]byte{1}, say(immData, 64<<10, immData, 64<<10))
	f.Add([]byte{2}, say(immCredit|1, 0, immCredit|2, 0, immCredit|immCount, 0))
	f.Add([]byte{3}, say(immProbe, 1<<31, immKinds, 8, immData|immUnused, 8))
	f.Add([]byte{4}, say(immData|immWrapped, 1, immData, 1<<32-1))
	f.Fuzz(func(t *testing.T, bytes, says []byte) {
		o := &Options{RingBytes: 64 << 10, Depth: 16}
		fabric := newFabric()
		w := fabric.newWire(o)
		w.peer, w.silent = fabric.newWire(o), true
		ch := newChannel(w, o, new(Counters), 0, channelConfig(2))
		ch.cfg.ValueMax = 100_000
		defer ch.Close()
		ch.Open()
		for range 5 { // what credit might be given for
			ch.Send(&replication.Message{Kind: replication.MARK})
			ch.Flush()
		}
		for i := range w.recv {
			if len(bytes) > 0 {
				w.recv[i] = bytes[i%len(bytes)]
			}
		}
		h, m := &upTo{}, replication.Message{From: ch.cfg.Member}
		for says = says[:min(len(says), 8*500)]; len(says) >= 8; says = says[8:] {
			ch.mu.Lock()
			err := ch.take(&completion{receive: 1, imm: binary.LittleEndian.Uint32(says), length: binary.LittleEndian.Uint32(says[4:])})
			ch.mu.Unlock()
			if err != nil {
				return
			}
			if len(ch.queue) > o.Depth || ch.out.used > 5 {
				t.Fatalf("%d frames are held where %d may be, and %d of 5 are taken for used up", len(ch.queue), o.Depth, ch.out.used)
			}
			if len(ch.queue) < 3 {
				continue
			}
			for _, frame := range ch.takeQueue(nil) {
				// The peer can compute checksums too, and write them.
				b := ch.recv[frame.offset : frame.offset+int(frame.length)]
				binary.LittleEndian.PutUint32(b, frame.length-frameHead)
				binary.LittleEndian.PutUint32(b[4:], checksum(b, frame.imm))
				if _, err := ch.deliver(h, &frame, &m); err != nil {
					return
				}
				if most := ch.messageMax() + frameTarget; len(ch.assembly) > most {
					t.Fatalf("%d bytes are held of something in pieces, which can have %d", len(ch.assembly), most)
				}
				ch.use(frame.end)
			}
		}
	})
}
