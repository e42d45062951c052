package table

// Walk visits the stored keys of the lane, tombstones too, a few buckets of the index at a time, so that the lane need not be locked for all of
// it: the lane is locked for each call, and may be unlocked and changed in any way between two. The first call has cursor 0, each further one the
// next that the last has returned, until done. Every key that is stored all the time from the first call to the last is visited at least once, in
// no order, some twice: its state is that of the moment of the visit. What is put or removed meanwhile may be visited or not.
//
// A call looks at so many buckets as steps says, at least one, of about five keys each. Where visit returns false, it is the last one: the keys
// that are left in the bucket are still visited. key lies in the table and is good until visit changes the lane or returns; it is good for Update
// and Remove, which are all that visit may do to the lane. The hash of the key is not known: Hash(key) if need be.
func (l *Lane) Walk(cursor uint64, steps int, visit func(key []byte, it *Item) bool) (next uint64, done bool) {
	// A bucket that splits keeps some of its keys, and the others go to a new bucket behind all that there are; no key ever comes into a
	// bucket before the one that it is in. So a key that is in no bucket before the cursor stays out of these, and a bucket whose chain is visited
	// under one lock is done. Collect and Compact move records, not entries.
	steps = max(steps, 1)
	for n := l.buckets.Load(); cursor < n && steps > 0; steps-- {
		if !l.walkBucket(cursor, visit) {
			steps = 1
		}
		cursor++
	}
	return cursor, cursor >= l.buckets.Load()
}

// walkBucket visits all keys of a bucket, with its overflow buckets, and returns whether visit returned true for all.
func (l *Lane) walkBucket(n uint64, visit func(key []byte, it *Item) bool) (all bool) {
	all = true
	it := &l.visited
	for b := l.bucketOffset(n); b != noBucket; b = l.entry(b + linkOffset) {
		for slot := b; slot < b+linkOffset; slot += wordBytes {
			e := l.entry(slot)
			if !isItem(e) {
				continue
			}
			rec := recordOf(e)
			it.slot = slot
			l.readHeader(rec, *l.word(rec), it)
			if !visit(l.key(rec), it) {
				all = false
			}
		}
	}
	return all
}
