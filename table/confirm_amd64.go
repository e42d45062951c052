package table

// unchanged tells whether the sequence number is still seq, after everything that the caller has read before. On amd64
// loads are not reordered with other loads (Intel SDM 3A 9.2.2, AMD APM 2 7.2), and the compiler does
// not move a load over an atomic operation. So a plain look is enough.
func (l *Lane) unchanged(seq uint64) bool { return l.seq.Load() == seq }
