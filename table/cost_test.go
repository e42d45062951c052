package table

import (
	"fmt"
	"testing"
)

// What an item costs besides its key and value, in bytes, in a table that is filled with items of one size (docs/table.md): the record's header
// and padding, its share of the index, and what is lost at the ends of segments. memcached 1.6: 56 with the cas unique, 8 of its hash table, and
// what its slab classes leave.
func TestOverheadOfAnItem(t *testing.T) {
	for _, c := range []struct{ megabytes, keyBytes, valueBytes, most int }{{64, 16, 100, 50}, {64, 16, 32, 45}, {64, 30, 8, 45}, {64, 10, 1000, 140}, {256, 10, 1000, 80},
		{256, 16, 10_000, 500}} {
		tab, err := New(Config{MemoryBytes: uint64(c.megabytes) << 20, ItemSizeMax: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		value := make([]byte, c.valueBytes)
		items := 0
		for full := false; !full; items++ {
			key := fmt.Appendf(nil, "%0*d", c.keyBytes, items)
			hash := Hash(key)
			l := tab.Lane(LaneOf(hash))
			l.Lock()
			full = l.Put(hash, key, &Item{TS: Timestamp{Write: 1 << 8}}, value) != nil
			l.Unlock()
		}
		var s Stats
		for i := range Lanes {
			s.Add(tab.Lane(i).Stats())
		}
		each := float64(s.LogBytes+s.IndexBytes)/float64(s.Items) - float64(c.keyBytes+c.valueBytes)
		t.Logf("keys of %d and values of %d bytes: %d items in %d MB, %.1f bytes besides key and value (index %.1f)", c.keyBytes, c.valueBytes, s.Items, c.megabytes, each,
			float64(s.IndexBytes)/float64(s.Items))
		if each > float64(c.most) {
			t.Errorf("keys of %d and values of %d bytes: each item costs %.1f bytes besides, more than %d", c.keyBytes, c.valueBytes, each, c.most)
		}
		if err := tab.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
