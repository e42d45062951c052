package replication

import (
	"errors"
	"fmt"
	"reflect"
	"unsafe"

	"hermesd/table"
)

// fakeStore is a lane's Items that can be copied: a list of records that are never changed in place. It holds the engine to
// the contract of the table: an item that Find has returned is good only until the lane's store changes next, and
// using one after that panics here, where in the table it would quietly hit another record.
type fakeStore struct {
	recs    []fakeRecord
	changes uint32 // counts what makes found items stale
	full    bool   // Put refuses
}

type fakeRecord struct {
	key   string
	item  table.Item
	value string
}

var errFull = errors.New("full")

// place is what fakeStore keeps in the unexported part of a table.Item.
type place struct{ record, changes uint32 }

var whereOffset = func() uintptr {
	f, ok := reflect.TypeOf(table.Item{}).FieldByName("where")
	if !ok || f.Type.Size() < unsafe.Sizeof(place{}) {
		panic("fakeStore: table.Item has no field `where` that a place fits into")
	}
	return f.Offset
}()

func placeOf(it *table.Item) *place {
	return (*place)(unsafe.Pointer(uintptr(unsafe.Pointer(it)) + whereOffset))
}

func (s *fakeStore) lookup(key string) int {
	for i := range s.recs {
		if s.recs[i].key == key {
			return i
		}
	}
	return -1
}

func (s *fakeStore) Find(hash uint64, key []byte, it *table.Item) bool {
	if hash != table.Hash(key) {
		panic(fmt.Sprintf("fakeStore: Find of %q with another key's hash", key))
	}
	i := s.lookup(string(key))
	if i < 0 {
		return false
	}
	*it = s.recs[i].item
	*placeOf(it) = place{uint32(i), s.changes}
	return true
}

func (s *fakeStore) at(it *table.Item) *fakeRecord {
	p := placeOf(it)
	if p.changes != s.changes || int(p.record) >= len(s.recs) {
		panic("fakeStore: an item is used that was found before the store changed")
	}
	return &s.recs[p.record]
}

func (s *fakeStore) AppendValue(dst []byte, it *table.Item) []byte {
	return append(dst, s.at(it).value...)
}

func (s *fakeStore) Put(hash uint64, key []byte, it *table.Item, value []byte) error {
	if hash != table.Hash(key) {
		panic(fmt.Sprintf("fakeStore: Put of %q with another key's hash", key))
	}
	if s.full {
		return errFull
	}
	s.changes++
	i := s.lookup(string(key))
	if i < 0 {
		i = len(s.recs)
		s.recs = append(s.recs, fakeRecord{key: string(key)})
	}
	s.set(i, it, string(value))
	return nil
}

func (s *fakeStore) set(i int, it *table.Item, value string) {
	r := &s.recs[i]
	r.item, r.value = *it, value
	r.item.ValueLen = len(value)
	*placeOf(&r.item) = place{}
}

// Update keeps the value, except that a tombstone's becomes garbage, which the engine must not read.
func (s *fakeStore) Update(it *table.Item) error {
	r := s.at(it)
	value := r.value
	if it.State&table.Tombstone != 0 {
		value = ""
	}
	i := placeOf(it).record
	s.changes++
	s.set(int(i), it, value)
	return nil
}

func (s *fakeStore) Remove(it *table.Item) {
	s.at(it)
	i := placeOf(it).record
	s.changes++
	last := len(s.recs) - 1
	s.recs[i] = s.recs[last]
	s.recs = s.recs[:last]
}

// Walk visits one record for each step. A record that Remove has put in another's place is visited again, or for the first time.
func (s *fakeStore) Walk(cursor uint64, steps int, visit func(key []byte, it *table.Item) bool) (next uint64, done bool) {
	i := len(s.recs) // from the end, since Remove moves the last one down: it may be visited twice, but is not passed by
	if cursor != 0 {
		i = min(int(cursor)-1, i)
	}
	for more := true; i > 0 && more && steps > 0; steps-- {
		i--
		if i >= len(s.recs) {
			continue
		}
		it := s.recs[i].item
		*placeOf(&it) = place{uint32(i), s.changes}
		more = visit([]byte(s.recs[i].key), &it)
	}
	return uint64(i) + 1, i == 0
}

// anySize is a Limits for tests: every item may be stored.
type anySize struct{}

func (anySize) Fits(int, int, uint32) bool { return true }
