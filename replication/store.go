package replication

import "hermesd/table"

// store is a lane's Items without allocation: what is given to a method of an interface lives on the heap, and so items
// go through one that the lane has.
type store struct {
	Items
	it table.Item
}

func (s *store) Find(hash uint64, key []byte, it *table.Item) bool {
	if !s.Items.Find(hash, key, &s.it) {
		return false
	}
	*it = s.it
	return true
}

func (s *store) AppendValue(dst []byte, it *table.Item) []byte {
	s.it = *it
	return s.Items.AppendValue(dst, &s.it)
}

func (s *store) Put(hash uint64, key []byte, it *table.Item, value []byte) error {
	s.it = *it
	err := s.Items.Put(hash, key, &s.it, value)
	*it = s.it
	return err
}

func (s *store) Update(it *table.Item) error {
	s.it = *it
	err := s.Items.Update(&s.it)
	*it = s.it
	return err
}

func (s *store) Remove(it *table.Item) {
	s.it = *it
	s.Items.Remove(&s.it)
}

// letGo gives up what the lane refers to only until its next message, and buffers that have grown for a large value: there are many lanes.
func (l *Lane) letGo() {
	l.out.Key, l.out.Value = nil, nil
	if cap(l.scratch) > keptBuffer {
		l.scratch = nil
	}
}
