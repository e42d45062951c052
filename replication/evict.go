package replication

import "hermesd/table"

// Evict starts the delete of an item as it is stored now: any newer update wins, and an eviction that is refused is not run again
// (design section 4, "Eviction"). It reports what becomes of the item: gone when it returns, under way, or staying.
// op must be fresh; it belongs to the engine if the eviction is under way.
func (l *Lane) Evict(op *Op, hash uint64, key []byte, it *table.Item) table.Verdict {
	if l.governed(it) {
		if l.floor.invalid {
			return table.Keep
		}
		return table.Drop
	}
	if l.outside() {
		return table.Keep
	}
	if it.State&table.Invalid != 0 && l.peers&bit(it.Finisher) != 0 {
		// Its end may have been told in a channel that broke. Nobody may ever read it here, and then nobody asks.
		l.out = Message{Kind: PROBE, TS: it.TS, Key: key, Bits: stateBits(it.State) & BitTombstone}
		l.send(it.Finisher)
		return table.Keep
	}
	if it.State&(table.Invalid|table.Tombstone) != 0 {
		return table.Keep
	}
	if l.peers == 0 {
		l.drop(l.stepOn(it.TS))
		return table.Drop
	}
	op.Kind, op.Hash, op.Key, op.ts = opEvict, hash, key, it.TS
	if l.Submit(op) {
		return table.Keep
	}
	return table.Pending
}

// Flushed reports whether the item lies below a completed flush, so that it is absent, and its place can be given back.
func (l *Lane) Flushed(it *table.Item) bool { return l.governed(it) && !l.floor.invalid }

// governed reports whether the floor has taken the item's place.
func (l *Lane) governed(it *table.Item) bool { return it.TS.Compare(l.floor.ts) <= 0 }
