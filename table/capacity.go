package table

// MemoryBytes is the size of the table's one mapping, which bounds items and index together.
func (t *Table) MemoryBytes() uint64 { return t.memory.size }
