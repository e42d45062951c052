package table

import (
	"fmt"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// resident is how many of the bytes of memory, which begins at a page, the kernel has given.
func resident(t *testing.T, mem []byte) (bytes int) {
	t.Helper()
	page := syscall.Getpagesize()
	there := make([]byte, (len(mem)+page-1)/page)
	if _, _, errno := syscall.Syscall(syscall.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(mem))), uintptr(len(mem)), uintptr(unsafe.Pointer(unsafe.SliceData(there)))); errno != 0 {
		t.Fatal(errno)
	}
	for _, p := range there {
		bytes += int(p&1) * page
	}
	return bytes
}

// TestMemoryIsTouchedAhead: while items are stored, the memory that will be taken next is there before it is needed; a table in which nothing is stored costs no more
// than its index.
func TestMemoryIsTouchedAhead(t *testing.T) {
	tab, err := New(Config{MemoryBytes: 64 << 20, ItemSizeMax: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer tab.Close()
	if tab.ahead.wake == nil {
		t.Skip("this kernel cannot touch memory for us (MADV_POPULATE_WRITE, Linux 5.14)")
	}
	next := func() []byte {
		tab.mu.Lock()
		defer tab.mu.Unlock()
		return tab.mapping[tab.offset(tab.fresh):]
	}
	if got := resident(t, next()[aheadStep:]); got != 0 {
		t.Errorf("of an empty table, %d bytes of memory are there that nobody needs", got)
	}
	value := make([]byte, 4000)
	for n := 0; n < 5000; n++ {
		key := []byte(fmt.Sprint("key", n))
		hash := Hash(key)
		lane := tab.Lane(LaneOf(hash))
		lane.Lock()
		err := lane.Put(hash, key, &Item{TS: Timestamp{Write: 1<<8 | 1}}, value)
		lane.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		if n%1000 != 0 {
			continue
		}
		for deadline := time.Now().Add(10 * time.Second); resident(t, next()[:aheadBytes/2]) < aheadBytes/2; {
			if time.Now().After(deadline) {
				t.Fatalf("after %d items only %d of the next %d bytes are there", n+1, resident(t, next()[:aheadBytes/2]), aheadBytes/2)
			}
		}
	}
	if got := resident(t, next()[aheadBytes+2*aheadStep:]); got != 0 {
		t.Errorf("%d bytes are there that will not be needed soon", got)
	}
}

// TestCloseWhileMemoryIsTouched: the mapping is not taken away from under the goroutine.
func TestCloseWhileMemoryIsTouched(t *testing.T) {
	for range 20 {
		tab, err := New(Config{MemoryBytes: 64 << 20, ItemSizeMax: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		lane := tab.Lane(0)
		key := []byte("key")
		lane.Lock()
		if err := lane.Put(Hash(key), key, &Item{TS: Timestamp{Write: 1<<8 | 1}}, make([]byte, 1<<19)); err != nil {
			t.Error(err)
		}
		lane.Unlock()
		if err := tab.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
