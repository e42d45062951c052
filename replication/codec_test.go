package replication

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"

	"hermesd/table"
)

// plainStamp is the time stamp of a plain write, stepStamp that of a read-modify-write on it.
func plainStamp(version, writer uint64) table.Timestamp {
	return table.Timestamp{Write: version<<8 | writer}
}

func stepStamp(version, writer, step, stepper uint64) table.Timestamp {
	return table.Timestamp{Write: version<<8 | writer, Step: step<<8 | stepper}
}

// A group that has run for a while: what messages look like then.
var (
	typicalKey   = []byte("key:000000000042")                 // 16 bytes
	typicalValue = []byte("abcdefghijklmnopqrstuvwxyz012345") // 32 bytes
	typicalINV   = Message{Kind: INV, Lane: 17, Epoch: 9, Clock: 1_000_000, ID: 70_000, TS: plainStamp(1_000_000, 2),
		CAS: 2<<56 | 1_700_000_000_000_000, Key: typicalKey, Value: typicalValue}
	typicalACK = Message{Kind: ACK, Lane: 17, Epoch: 9, Clock: 1_000_003, ID: 70_000, TS: plainStamp(1_000_000, 2)}
	typicalVAL = Message{Kind: VAL, Lane: 17, Epoch: 9, Clock: 1_000_004, TS: plainStamp(1_000_000, 2), Key: typicalKey}
)

var codecMessages = []struct {
	name     string
	m        Message
	overhead int // the most bytes besides key and value
}{
	{"INV", typicalINV, 27},
	{"ACK", typicalACK, 17},
	{"VAL", typicalVAL, 15},
	{"RMW", Message{Kind: INV, Bits: BitOnAbsent, Lane: 63, Epoch: 1, Clock: 7, ID: 1, TS: stepStamp(5, 1, 900, 1),
		Flags: 1, Exptime: 1_700_000_000, CAS: 1, Key: []byte("k"), Value: []byte("v")}, 27},
	{"tombstone", Message{Kind: INV, Bits: BitTombstone, TS: stepStamp(5, 1, 1, 3), Key: []byte("k")}, 14},
	{"flush", Message{Kind: INV, Bits: BitFlush, TS: plainStamp(9, 1), Clock: 9}, 10},
	{"NACK newer", Message{Kind: NACK, Epoch: 300, Clock: 20, ID: 9, TS: stepStamp(5, 1, 1, 3), Newer: stepStamp(6, 2, 1, 2),
		Finisher: 2, Flags: 3, Exptime: 1, CAS: 7, Value: typicalValue}, 40},
	{"NACK absent", Message{Kind: NACK, Bits: BitAbsent, ID: 9, TS: stepStamp(5, 1, 1, 3), Newer: plainStamp(8, 2)}, 20},
	{"PROBE", Message{Kind: PROBE, Bits: BitTombstone, TS: plainStamp(5, 1), Key: []byte("k")}, 13},
	{"STATE", Message{Kind: STATE, TS: plainStamp(5, 1), Newer: plainStamp(6, 3), CAS: 7, Key: []byte("k"), Value: []byte("v")}, 20},
	{"CLOCKASK", Message{Kind: CLOCKASK, Lane: 3, Epoch: 1, Clock: 1 << 55}, 18},
	{"CLOCK", Message{Kind: CLOCK, Lane: 3, Epoch: 1, Clock: versionLimit - 1}, 18},
	{"MARK", Message{Kind: MARK}, 8},
	{"CREDIT", Message{Kind: CREDIT, ID: 1 << 40}, 14},
	{"largest words", Message{Kind: NACK, Bits: BitOnAbsent, Lane: 63, Epoch: 1<<64 - 1, Clock: versionLimit - 1, ID: 1<<64 - 1,
		TS: stepStamp(versionLimit-1, MaxMember, versionLimit-1, MaxMember), Newer: stepStamp(1<<55, 1, 1<<55, 1), Finisher: MaxMember,
		Flags: 1<<32 - 1, Exptime: 1<<32 - 1, CAS: 1<<64 - 1, Value: make([]byte, 70_000)}, codecHeadMax},
	{"longest key", Message{Kind: INV, TS: plainStamp(1, 1), Key: bytes.Repeat([]byte("k"), MaxKey), Value: make([]byte, 255)}, 14},
	{"value of 256", Message{Kind: INV, TS: plainStamp(1, 1), Key: []byte("k"), Value: make([]byte, 256)}, 15},
	{"value of 65536", Message{Kind: INV, TS: plainStamp(1, 1), Key: []byte("k"), Value: make([]byte, 65536)}, 17},
}

// sameMessage compares what the wire carries; nil and empty slices are the same there.
func sameMessage(a, b *Message) bool {
	x, y := *a, *b
	x.Key, x.Value, y.Key, y.Value = nil, nil, nil, nil
	x.From, y.From = Member{}, Member{}
	return reflect.DeepEqual(x, y) && bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value)
}

func TestCodecRoundTrip(t *testing.T) {
	for _, c := range codecMessages {
		t.Run(c.name, func(t *testing.T) {
			prefix := []byte("before")
			buf := AppendMessage(prefix, &c.m)
			if !bytes.HasPrefix(buf, prefix) {
				t.Fatalf("what was in the buffer is gone: %q", buf[:len(prefix)])
			}
			buf = buf[len(prefix):]
			if got := len(buf) - len(c.m.Key) - len(c.m.Value); got > c.overhead {
				t.Errorf("%d bytes besides key and value, at most %d wanted", got, c.overhead)
			}
			// The old contents of m and what follows in the buffer must not matter.
			m := codecMessages[14].m
			m.From = Member{Number: 3, Incarnation: 4}
			n, err := DecodeMessage(append(buf, "after"...), &m)
			if err != nil || n != len(buf) || !sameMessage(&m, &c.m) {
				t.Fatalf("decoded %d of %d bytes, %v:\n got %+v\nwant %+v", n, len(buf), err, m, c.m)
			}
			if (m.From != Member{Number: 3, Incarnation: 4}) {
				t.Errorf("From was changed to %v", m.From)
			}
			if len(m.Key) > 0 && &m.Key[0] != &buf[n-len(m.Key)-len(m.Value)] {
				t.Error("the key was copied")
			}
			for cut := range min(n, 400) {
				if _, err := DecodeMessage(buf[:cut:cut], &m); !errors.Is(err, ErrTruncated) {
					t.Fatalf("cut to %d of %d bytes: %v", cut, n, err)
				}
			}
		})
	}
}

func TestCodecRefuses(t *testing.T) {
	good := func() Message {
		return Message{Kind: INV, TS: stepStamp(5, 1, 1, 3), Key: []byte("key"), Value: []byte("value")}
	}
	cases := []struct {
		name  string
		spoil func(m *Message)
	}{
		{"kind 0", func(m *Message) { m.Kind = 0 }},
		{"kind after the last", func(m *Message) { m.Kind = kindEnd }},
		{"lane", func(m *Message) { m.Lane = table.Lanes }},
		{"bits of no INV", func(m *Message) { m.Bits = BitInvalid }},
		{"bits of INVs only", func(m *Message) { m.Kind, m.Value, m.Bits = VAL, nil, BitReplay }},
		{"clock", func(m *Message) { m.Clock = versionLimit }},
		{"finisher", func(m *Message) { m.Finisher = MaxMember + 1 }},
		{"writer", func(m *Message) { m.TS = plainStamp(5, MaxMember+1) }},
		{"stepper", func(m *Message) { m.TS = stepStamp(5, 1, 1, MaxMember+1) }},
		{"step without stepper", func(m *Message) { m.TS = stepStamp(5, 1, 1, 0) }},
		{"stepper without step", func(m *Message) { m.TS = stepStamp(5, 1, 0, 1) }},
		{"newer's writer", func(m *Message) { m.Newer = plainStamp(5, 200) }},
		{"no time stamp", func(m *Message) { m.TS = table.Timestamp{} }},
		{"key too long", func(m *Message) { m.Key = make([]byte, MaxKey+1) }},
		{"no key", func(m *Message) { m.Key = nil }},
		{"flush with a key", func(m *Message) { m.Bits, m.Value = BitFlush, nil }},
		{"tombstone with a value", func(m *Message) { m.Bits = BitTombstone }},
		{"absent with a value", func(m *Message) { m.Bits = BitAbsent }},
		{"VAL with a value", func(m *Message) { m.Kind = VAL }},
		{"CLOCK with a key", func(m *Message) { m.Kind, m.Value = CLOCK, nil }},
		{"MARK with a value", func(m *Message) { m.Kind, m.Key = MARK, nil }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m := good()
			c.spoil(&m)
			defer func() {
				if recover() == nil {
					t.Errorf("AppendMessage took %+v", m)
				}
			}()
			AppendMessage(nil, &m)
		})
	}
}

// Bytes that no AppendMessage writes are refused, even where their meaning would be clear.
func TestDecodeRefuses(t *testing.T) {
	m := Message{Kind: NACK, Epoch: 1, Clock: 9, ID: 1, TS: stepStamp(5, 1, 1, 3), Finisher: 2, Flags: 1, Exptime: 1, CAS: 1,
		Key: []byte("k"), Value: []byte("v")}
	good := AppendMessage(nil, &m)
	// 8 head, epoch 1, clock 1, ID 1, TS 2+2, CAS 1, then flags at 16, exptime 20, finisher 24, key length 25, value length 26.
	const atFlags, atExptime, atFinisher, atKeyLen, atValueLen = 16, 20, 24, 25, 26
	cases := []struct {
		name  string
		spoil func(b []byte) []byte
	}{
		{"kind 0", func(b []byte) []byte { b[0] &^= kindMask; return b }},
		{"kind 31", func(b []byte) []byte { b[0] |= kindMask; return b }},
		{"unused head bit", func(b []byte) []byte { b[3] |= 1 << 7; return b }},
		{"unknown Bits", func(b []byte) []byte { b[2] |= 1 << 2; return b }},
		{"length 9", func(b []byte) []byte { b[4] = b[4]&0xf0 | 9; return b }},
		{"length 15", func(b []byte) []byte { b[7] = b[7]&0x0f | 0xf0; return b }},
		{"leading zero in a word", func(b []byte) []byte { b[8] = 0; return b }},
		{"flags present and 0", func(b []byte) []byte { b[atFlags] = 0; return b }},
		{"exptime present and 0", func(b []byte) []byte { b[atExptime] = 0; return b }},
		{"finisher present and 0", func(b []byte) []byte { b[atFinisher] = 0; return b }},
		{"finisher 64", func(b []byte) []byte { b[atFinisher] = MaxMember + 1; return b }},
		{"key present and empty", func(b []byte) []byte { b[atKeyLen] = 0; return b }},
		{"key of 251 bytes", func(b []byte) []byte { b[atKeyLen] = MaxKey + 1; return append(b, make([]byte, 300)...) }},
		{"value present and empty", func(b []byte) []byte { b[atValueLen] = 0; return b }},
		{"value over the limit", func(b []byte) []byte {
			b[2], b[3] = b[2]|1<<7, b[3]|1 // class 3: four bytes of length
			return append(b[:atValueLen:atValueLen], 1, 0, 0, 0x40, 'k')
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := c.spoil(bytes.Clone(good))
			var m Message
			if n, err := DecodeMessage(b, &m); err == nil || errors.Is(err, ErrTruncated) {
				t.Errorf("decoded %d bytes, %v: %+v", n, err, m)
			}
		})
	}
}

// randomMessage draws a message that checkMessage accepts, words of all sizes.
func randomMessage(r *rand.Rand) Message {
	word := func(n int) uint64 { return r.Uint64() >> (64 - r.IntN(n+1)) }
	stamp := func() table.Timestamp {
		ts := plainStamp(1+word(55), uint64(1+r.IntN(MaxMember)))
		if r.IntN(2) == 0 {
			ts.Step = (1+word(55))<<8 | uint64(1+r.IntN(MaxMember))
		}
		return ts
	}
	some := func(n int) []byte {
		b := make([]byte, r.IntN(n))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	m := Message{Kind: Kind(1 + r.IntN(int(kindEnd)-1)), Lane: uint8(r.IntN(table.Lanes)), Epoch: word(64), Clock: word(56),
		ID: word(64), CAS: word(64), Flags: uint32(word(32)), Exptime: uint32(word(32)), Finisher: uint8(r.IntN(MaxMember + 1))}
	shape := messageShapes[m.Kind]
	if shape&shapeTS != 0 || r.IntN(2) == 0 {
		m.TS, m.Newer = stamp(), stamp()
	}
	if shape&shapeMayKey != 0 {
		m.Key = append(some(MaxKey), 'k')
	}
	if shape&shapeMayValue != 0 && r.IntN(4) != 0 {
		m.Value = some(600)
	}
	if len(m.Value) == 0 {
		m.Bits = uint8(r.IntN(4)) & (BitTombstone | BitAbsent)
	}
	m.Bits |= uint8(r.UintN(256)) & bitsOf[m.Kind]
	return m
}

// A stream of random messages comes out as it went in, whatever the length of what follows each.
func TestCodecStream(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var want []Message
		var buf []byte
		for range 1 + r.IntN(50) {
			m := randomMessage(r)
			want = append(want, m)
			buf = AppendMessage(buf, &m)
		}
		for i := range want {
			var m Message
			n, err := DecodeMessage(buf, &m)
			if err != nil || !sameMessage(&m, &want[i]) {
				t.Fatalf("message %d: %v:\n got %+v\nwant %+v", i, err, m, want[i])
			}
			buf = buf[n:]
		}
		if len(buf) != 0 {
			t.Fatalf("%d bytes left", len(buf))
		}
	}
}

// Any bytes: no panic, no reading past the end, and what decodes encodes to the same bytes.
func FuzzDecodeMessage(f *testing.F) {
	for _, c := range codecMessages {
		if len(c.m.Value) < 1000 {
			f.Add(AppendMessage(nil, &c.m))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m Message
		n, err := DecodeMessage(b[:len(b):len(b)], &m)
		if err != nil {
			if n != 0 {
				t.Fatalf("an error and %d bytes", n)
			}
			return
		}
		if again := AppendMessage(nil, &m); !bytes.Equal(again, b[:n]) {
			t.Fatalf("decoded from %x, encodes to %x", b[:n], again)
		}
	})
}

// Any message that is allowed survives the round trip.
func FuzzCodecRoundTrip(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, seed1, seed2 uint64) {
		want := randomMessage(rand.New(rand.NewPCG(seed1, seed2)))
		var m Message
		buf := AppendMessage(nil, &want)
		if n, err := DecodeMessage(buf, &m); err != nil || n != len(buf) || !sameMessage(&m, &want) {
			t.Fatalf("%d of %d bytes, %v:\n got %+v\nwant %+v", n, len(buf), err, m, want)
		}
	})
}

func TestCodecAllocates(t *testing.T) {
	buf := make([]byte, 0, 4096)
	var m Message
	allocs := testing.AllocsPerRun(100, func() {
		b := AppendMessage(AppendMessage(buf, &typicalINV), &typicalACK)
		n, _ := DecodeMessage(b, &m)
		if _, err := DecodeMessage(b[n:], &m); err != nil {
			t.Error(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations for two messages", allocs)
	}
}

func BenchmarkCodec(b *testing.B) {
	for _, c := range codecMessages[:3] {
		b.Run("append/"+c.name, func(b *testing.B) {
			buf := make([]byte, 0, 4096)
			for b.Loop() {
				buf = AppendMessage(buf[:0], &c.m)
			}
			b.ReportMetric(float64(len(buf)), "bytes")
		})
		b.Run("decode/"+c.name, func(b *testing.B) {
			buf := append(AppendMessage(nil, &c.m), make([]byte, 64)...)
			var m Message
			for b.Loop() {
				if _, err := DecodeMessage(buf, &m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
