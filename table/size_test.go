package table

import (
	"errors"
	"testing"
)

// TestBytesPerItem is the account of docs/table.md: what an item of a 16-byte key and a 100-byte value costs in a table that is full, and in how many
// places a get looks.
func TestBytesPerItem(t *testing.T) {
	const memory, keyBytes, valueBytes = 64 << 20, 16, 100
	tb := newTable(t, memory, 1<<20, 0)
	value := make([]byte, valueBytes)
	items := 0
	for ; ; items++ {
		key := benchKey(nil, uint64(items))
		hash := Hash(key)
		l := tb.Lane(LaneOf(hash))
		l.Lock()
		var it Item
		err := l.Put(hash, key, &it, value)
		l.Unlock()
		if errors.Is(err, ErrNoMemory) {
			break
		}
	}
	var sum Stats
	first := 0 // entries in the first bucket of their chain
	for i := range Lanes {
		l := tb.Lane(i)
		l.Lock()
		s := l.Stats()
		sum.LiveBytes, sum.LogBytes, sum.IndexBytes = sum.LiveBytes+s.LiveBytes, sum.LogBytes+s.LogBytes, sum.IndexBytes+s.IndexBytes
		for n := range s.Buckets {
			b := l.bucketOffset(n)
			for slot := b; slot < b+linkOffset; slot += wordBytes {
				if isItem(l.entry(slot)) {
					first++
				}
			}
		}
		l.Unlock()
	}
	overhead := float64(memory)/float64(items) - keyBytes - valueBytes
	record, index := float64(sum.LiveBytes)/float64(items), float64(sum.IndexBytes)/float64(items)
	elsewhere := 1 - float64(first)/float64(items)
	fill := float64(sum.LiveBytes) / float64(memory)
	t.Logf("%d items: %.1f bytes each besides key and value; record %.1f, index %.1f; records fill %.1f%% of the memory; %.1f%% of entries are in overflow buckets",
		items, overhead, record, index, 100*fill, 100*elsewhere)
	// memcached: 48 bytes of header and 8 of cas, before what its slab classes lose.
	if overhead > 50 {
		t.Errorf("%.1f bytes besides key and value", overhead)
	}
	if index > 18 {
		t.Errorf("%.1f bytes of index for each item", index)
	}
	if elsewhere > 0.15 {
		t.Errorf("%.1f%% of the entries are in overflow buckets", 100*elsewhere)
	}
}

// TestRecordSizes: what each kind of item takes in the log, in bytes.
func TestRecordSizes(t *testing.T) {
	for _, c := range []struct {
		name string
		item Item
		want uint64
	}{
		{"set", Item{}, 24 + 16 + 100 + 4},
		{"after a read-modify-write", Item{TS: Timestamp{Step: 1}}, 32 + 16 + 100 + 4},
		{"with exptime or flags", Item{Exptime: 1}, 32 + 16 + 100 + 4},
		{"with both", Item{Exptime: 1, TS: Timestamp{Step: 1}}, 40 + 16 + 100 + 4},
		{"deleted", Item{State: Tombstone}, 24 + 16},
	} {
		tb := newTable(t, 1<<20, 1<<10, 0)
		key := benchKey(nil, 1)
		l := tb.Lane(LaneOf(Hash(key)))
		l.Lock()
		if err := l.Put(Hash(key), key, &c.item, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		if got := l.Stats().LiveBytes; got != c.want {
			t.Errorf("%s: %d bytes, want %d", c.name, got, c.want)
		}
		l.Unlock()
	}
}
