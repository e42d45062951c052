//go:build !amd64

package table

// unchanged tells whether the sequence number is still seq, after everything that the caller has read before. Where
// loads may be reordered, an atomic load would not keep earlier loads before it. The lock does: they
// may sink into the locked section, but not out of it at its end (Unlock releases); and if the number is still seq there, nothing has
// changed from View to then, nor can it within the section.
func (l *Lane) unchanged(seq uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seq.Load() == seq
}
