package table

import "syscall"

// hugePagesFrom is the size from which on a mapping asks for huge pages. A get looks at two places that
// have nothing to do with each other, so it misses in the processor's page tables as often as in its
// caches; smaller tables gain little and would only look larger to who measures them.
const hugePagesFrom = 32 << 20

// mapMemory maps bytes of zeroed memory that costs nothing until it is touched.
func mapMemory(bytes int) ([]byte, error) {
	mem, err := syscall.Mmap(-1, 0, bytes, syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_ANON|syscall.MAP_PRIVATE|syscall.MAP_NORESERVE)
	if err == nil && bytes >= hugePagesFrom {
		// Only advice: where the kernel has none of them, pages are small.
		_ = syscall.Madvise(mem, syscall.MADV_HUGEPAGE)
	}
	return mem, err
}

// populate touches memory, whose content stays what it is and may be changed meanwhile (Linux 5.14 and later).
func populate(mem []byte) error {
	const populateWrite = 23 // MADV_POPULATE_WRITE
	return syscall.Madvise(mem, populateWrite)
}

func unmapMemory(mem []byte) error { return syscall.Munmap(mem) }
