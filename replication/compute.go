package replication

import (
	"strconv"

	"hermesd/table"
)

// compute runs op on the key's present state as memcached would: cur is nil if the key is absent or has expired.
// It fills in op.Result, the answer once the outcome is committed, and reports whether that outcome changes the key;
// if so, op.item and op.newValue are what is to be written. Plain writes are computed from nothing.
func (l *Lane) compute(op *Op, cur *table.Item) (change bool) {
	r := &op.Result
	*r = Result{Value: r.Value[:0]}
	if cur == nil {
		return l.computeAbsent(op)
	}
	switch op.Kind {
	case OpGet:
		l.read(op, cur)
		return false
	case OpSet, OpReplace:
		return l.store(op, op.Flags, op.Exptime, op.Value)
	case OpAdd:
		r.Status = NotStored
		return false
	case OpAppend, OpPrepend:
		return l.concatenate(op, cur)
	case OpCAS:
		if cur.CAS != op.CAS {
			r.Status = Exists
			return false
		}
		return l.store(op, op.Flags, op.Exptime, op.Value)
	case OpIncr, OpDecr:
		return l.count(op, cur)
	case OpTouch, OpGat:
		return l.touch(op, cur)
	case OpDelete, opEvict:
		r.Status = Deleted
		op.item = table.Item{State: table.Tombstone}
		op.newValue = nil
		return true
	}
	panic("replication: compute: operation " + strconv.Itoa(int(op.Kind)))
}

// computeAbsent is compute for an absent key: all but set and add are answered without an update.
func (l *Lane) computeAbsent(op *Op) (change bool) {
	r := &op.Result
	switch op.Kind {
	case OpSet, OpAdd:
		return l.store(op, op.Flags, op.Exptime, op.Value)
	case OpGet, OpGat:
		r.Status = Miss
	case OpReplace, OpAppend, OpPrepend:
		r.Status = NotStored
	default:
		r.Status = NotFound
	}
	return false
}

func (l *Lane) store(op *Op, flags, exptime uint32, value []byte) bool {
	op.item = table.Item{Flags: flags, Exptime: exptime, CAS: l.env.Unique()<<8 | uint64(l.self)}
	op.newValue = value
	op.Result.Status, op.Result.CAS = Stored, op.item.CAS
	return true
}

func (l *Lane) read(op *Op, cur *table.Item) {
	r := &op.Result
	r.Status, r.Flags, r.CAS = Hit, cur.Flags, cur.CAS
	r.Value = l.items.AppendValue(r.Value[:0], cur)
}

// concatenate keeps flags and exptime of the old item (protocol.txt, "append").
func (l *Lane) concatenate(op *Op, cur *table.Item) bool {
	if !l.limits.Fits(len(op.Key), cur.ValueLen+len(op.Value), cur.Flags) {
		op.Result.Status = NotStored
		return false
	}
	op.built = op.built[:0]
	if op.Kind == OpPrepend {
		op.built = append(op.built, op.Value...)
	}
	op.built = l.items.AppendValue(op.built, cur)
	if op.Kind == OpAppend {
		op.built = append(op.built, op.Value...)
	}
	return l.store(op, cur.Flags, cur.Exptime, op.built)
}

// touch changes the exptime and nothing else: the cas unique stays, as memcached's does.
func (l *Lane) touch(op *Op, cur *table.Item) (change bool) {
	if op.Kind == OpGat {
		l.read(op, cur)
	} else {
		op.Result.Status = Touched
	}
	if cur.Exptime == op.Exptime {
		return false
	}
	op.item = table.Item{Flags: cur.Flags, Exptime: op.Exptime, CAS: cur.CAS}
	op.built = l.items.AppendValue(op.built[:0], cur)
	op.newValue = op.built
	return true
}

// longestNumber bounds, in bytes, a value that incr and decr look at: memcached's limit is that of an
// item in one chunk; blanks around a number fit.
const longestNumber = 1024

// count is incr and decr: incr wraps at 2^64, decr stops at 0, and a result shorter than the old text is padded with
// blanks on the right (protocol.txt, "incr/decr").
func (l *Lane) count(op *Op, cur *table.Item) bool {
	if cur.ValueLen > longestNumber {
		op.Result.Status = NonNumeric
		return false
	}
	op.built = l.items.AppendValue(op.built[:0], cur)
	old, ok := parseNumber(op.built)
	if !ok {
		op.Result.Status = NonNumeric
		return false
	}
	switch {
	case op.Kind == OpIncr:
		old += op.Delta
	case old < op.Delta:
		old = 0
	default:
		old -= op.Delta
	}
	op.built = strconv.AppendUint(op.built[:0], old, 10)
	for len(op.built) < cur.ValueLen {
		op.built = append(op.built, ' ')
	}
	l.store(op, cur.Flags, cur.Exptime, op.built)
	op.Result.Status, op.Result.Number = Number, old
	return true
}

// parseNumber reads a value as memcached's safe_strtoull does: leading blanks and a sign, digits, and then the end or
// a blank. A minus is accepted only where strtoull's negated result looks small (-0, -18446744073709551615).
func parseNumber(b []byte) (n uint64, ok bool) {
	i := 0
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	negative := false
	if i < len(b) && (b[i] == '+' || b[i] == '-') {
		negative = b[i] == '-'
		i++
	}
	first := i
	for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		d := uint64(b[i] - '0')
		if n > (1<<64-1-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	if i == first || i < len(b) && !isSpace(b[i]) && b[i] != 0 {
		return 0, false
	}
	if negative {
		n = -n
		if int64(n) < 0 {
			return 0, false
		}
	}
	return n, true
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }
