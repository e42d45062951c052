package table

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
)

const benchItems = 1 << 20

// benchKey is a 16-byte key.
func benchKey(dst []byte, i uint64) []byte {
	const hex = "0123456789abcdef"
	for s := 60; s >= 0; s -= 4 {
		dst = append(dst, hex[i>>s&15])
	}
	return dst
}

func filled(b *testing.B, memory uint64, items int, value []byte) *Table {
	t := newTable(b, memory, 1<<20, 0)
	var it Item
	var kb [16]byte
	for i := range items {
		key := benchKey(kb[:0], uint64(i))
		hash := Hash(key)
		l := t.Lane(LaneOf(hash))
		l.Lock()
		if err := l.Put(hash, key, &it, value); err != nil {
			b.Fatal(err)
		}
		l.Unlock()
	}
	return t
}

// BenchmarkGet reads random keys of 2^20 items of 16 + 32 bytes without the lock, value copied.
func BenchmarkGet(b *testing.B) {
	t := filled(b, 256<<20, benchItems, make([]byte, 32))
	b.ReportAllocs()
	b.ResetTimer()
	var seeds atomic.Uint64
	b.RunParallel(func(pb *testing.PB) {
		rng := rand.New(rand.NewPCG(seeds.Add(1), 2))
		var it Item
		var kb [16]byte
		buf := make([]byte, 0, 64)
		for pb.Next() {
			key := benchKey(kb[:0], rng.Uint64N(benchItems))
			hash := Hash(key)
			l := t.Lane(LaneOf(hash))
			tk, found := l.View(hash, key, &it)
			buf = l.AppendValue(buf[:0], &it)
			if !found || !l.Confirm(tk) {
				b.Fatal("miss")
			}
		}
	})
}

// BenchmarkKeyOnly is what BenchmarkGet spends on making and hashing keys.
func BenchmarkKeyOnly(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	var kb [16]byte
	sum := uint64(0)
	for b.Loop() {
		sum += Hash(benchKey(kb[:0], rng.Uint64N(benchItems)))
	}
	runtime.KeepAlive(sum)
}

// BenchmarkSet overwrites random keys of 2^20 items with values of the same length.
func BenchmarkSet(b *testing.B) {
	value := make([]byte, 32)
	t := filled(b, 256<<20, benchItems, value)
	rng := rand.New(rand.NewPCG(1, 2))
	var kb [16]byte
	var it Item
	b.ReportAllocs()
	for b.Loop() {
		key := benchKey(kb[:0], rng.Uint64N(benchItems))
		hash := Hash(key)
		l := t.Lane(LaneOf(hash))
		l.Lock()
		if err := l.Put(hash, key, &it, value); err != nil {
			b.Fatal(err)
		}
		l.Unlock()
	}
}

// BenchmarkSetNew inserts new keys into a full table, reclaiming included.
func BenchmarkSetNew(b *testing.B) {
	value := make([]byte, 32)
	t := filled(b, 128<<20, benchItems, value)
	var kb [16]byte
	var it Item
	i := uint64(benchItems)
	drop := func([]byte, uint64, *Item) Verdict { return Drop }
	b.ReportAllocs()
	for b.Loop() {
		i++
		key := benchKey(kb[:0], i)
		binary.LittleEndian.PutUint64(value, i)
		hash := Hash(key)
		l := t.Lane(LaneOf(hash))
		l.Lock()
		if err := l.Put(hash, key, &it, value); err != nil {
			b.Fatal(err)
		}
		l.Unlock()
		for t.FreeBytes() < uint64(8*t.SegmentBytes()) {
			l := t.Lane(t.Fullest())
			l.Lock()
			l.Collect(0, drop)
			l.Unlock()
		}
	}
}
