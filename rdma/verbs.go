//go:build rdma

package rdma

/*
#include "verbs.h"
#include <stdlib.h>
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inlineWant is how many bytes of a request we ask a device to take along: an ACK or a few, an INV of a small value.
const inlineWant = 256

// What wire.go and verbs.h both say must be the same, or this does not compile.
var (
	_ [0]struct{} = [postMax - C.HD_POST_MAX]struct{}{}
	_ [0]struct{} = [pollMax - C.HD_POLL_MAX]struct{}{}
	_ [0]struct{} = [requestImmediate - C.HD_IMMEDIATE]struct{}{}
	_ [0]struct{} = [requestSignalled - C.HD_SIGNALLED]struct{}{}
	_ [0]struct{} = [requestInline - C.HD_INLINE]struct{}{}
	_ [0]struct{} = [unsafe.Sizeof(request{}) - C.sizeof_struct_hd_request]struct{}{}
	_ [0]struct{} = [unsafe.Sizeof(completion{}) - C.sizeof_struct_hd_completion]struct{}{}
)

// verbsWire is a wire of verbs.
type verbsWire struct {
	end        *C.struct_hd_end // in C's memory, as it holds C's pointers only
	events     *os.File
	raw        syscall.RawConn
	send, recv []byte
	taken      C.int // of takeEvent
	pending    C.int // 1: the queue was armed and nobody waited, so that its event may come, or have come, beside the one that is waited for
	takeEvent  func(fd uintptr) bool
}

// newVerbsWire makes a queue pair on a port that is not connected yet.
func newVerbsWire(d *device, port int, o *Options) (_ *verbsWire, err error) {
	sends, receives := o.Depth+reservedSends, o.Depth+reservedReceives+pollMax
	if most := int(d.limits.max_requests); max(sends, receives) > most {
		return nil, fmt.Errorf("rdma: %s has queues of %d requests at most, and a depth of %d takes %d: lower --rdma-depth", d.name, most, o.Depth, max(sends, receives))
	}
	if most := int(d.limits.max_completions); sends+receives > most {
		return nil, fmt.Errorf("rdma: %s has completion queues of %d at most, and a depth of %d takes %d: lower --rdma-depth", d.name, most, o.Depth, sends+receives)
	}
	w := &verbsWire{end: (*C.struct_hd_end)(C.calloc(1, C.sizeof_struct_hd_end))}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	for _, ring := range []*[]byte{&w.send, &w.recv} {
		if *ring, err = unix.Mmap(-1, 0, o.RingBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
			return nil, fmt.Errorf("rdma: map a ring of %d bytes: %w", o.RingBytes, err)
		}
	}
	var step *C.char
	if e := C.hd_open(d.context, d.pd, w.end, unsafe.Pointer(&w.send[0]), unsafe.Pointer(&w.recv[0]), C.uint64_t(o.RingBytes),
		C.uint32_t(sends), C.uint32_t(receives), inlineWant, C.uint32_t(port), &step); e != 0 {
		return nil, setUpError(d.name, C.GoString(step), syscall.Errno(e), o)
	}
	if w.events, err = pollable(int(w.end.events.fd), d.name); err != nil {
		return nil, err
	}
	if w.raw, err = w.events.SyscallConn(); err != nil {
		return nil, err
	}
	w.takeEvent = func(uintptr) bool {
		w.taken = C.hd_take_event(w.end, w.pending)
		return w.taken != 0
	}
	return w, nil
}

// setUpError says what failed, and what to do where we know.
func setUpError(name, step string, err syscall.Errno, o *Options) error {
	if err == syscall.ENOMEM || err == syscall.EAGAIN || err == syscall.EPERM {
		var limit unix.Rlimit
		if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit) == nil && limit.Cur != unix.RLIM_INFINITY && !mayLock() {
			return fmt.Errorf("rdma: %s: %s: %w; the limit of locked memory is %d KiB, and each other replica takes %d KiB of it: raise it (ulimit -l, LimitMEMLOCK=)",
				name, step, err, limit.Cur>>10, o.MemoryPerPeer()>>10)
		}
	}
	return fmt.Errorf("rdma: %s: %s: %w", name, step, err)
}

// connect makes the queue pair one with the peer's.
func (w *verbsWire) connect(c *choice, psn uint32, peer *offer, o *Options) error {
	timeout, retries := o.timeouts()
	r := C.struct_hd_route{qpn: C.uint32_t(peer.qpn), lid: C.uint32_t(peer.lid), psn: C.uint32_t(peer.psn), own_psn: C.uint32_t(psn),
		mtu: C.uint32_t(min(peer.mtu, c.port.mtu)), gid_index: C.uint32_t(c.gid.index), port: C.uint32_t(c.port.number),
		timeout: C.uint32_t(timeout), retries: C.uint32_t(retries)}
	if peer.global {
		r.global = 1
	}
	for i, b := range peer.gid {
		r.gid[i] = C.uint8_t(b)
	}
	w.end.peer_at, w.end.peer_rkey = C.uint64_t(peer.at), C.uint32_t(peer.rkey)
	var step *C.char
	if e := C.hd_connect(w.end, &r, &step); e != 0 {
		return fmt.Errorf("rdma: %s: connect to GID %s: %s: %w", c.device, gidText(peer.gid), C.GoString(step), syscall.Errno(e))
	}
	return nil
}

func (w *verbsWire) qpn() uint32                { return uint32(w.end.qp.qp_num) }
func (w *verbsWire) rkey() uint32               { return uint32(w.end.recv.rkey) }
func (w *verbsWire) rings() (send, recv []byte) { return w.send, w.recv }
func (w *verbsWire) inlineMax() int             { return int(w.end.inline_max) }

func (w *verbsWire) post(first uint64, requests []request) error {
	if e := C.hd_post(w.end, C.uint64_t(first), (*C.struct_hd_request)(unsafe.Pointer(&requests[0])), C.int(len(requests))); e != 0 {
		return fmt.Errorf("rdma: post: %w", syscall.Errno(e))
	}
	return nil
}

func (w *verbsWire) poll(receives int, arm bool, out []completion) (int, error) {
	armed := C.int(0)
	if arm {
		armed = 1
	}
	n := C.hd_poll(w.end, C.int(receives), armed, (*C.struct_hd_completion)(unsafe.Pointer(&out[0])), C.int(len(out)))
	if n < 0 {
		return 0, fmt.Errorf("rdma: poll: %w", syscall.Errno(-n))
	}
	if arm && n > 0 {
		w.pending = 1
	}
	return int(n), nil
}

// wait takes all events where there may be several: each wait that finds one left over is for nothing, and under a load that leaves some over again and again
// they would fill the kernel's memory.
func (w *verbsWire) wait() error {
	if err := w.raw.Read(w.takeEvent); err != nil {
		return err
	}
	if w.taken < 0 {
		return fmt.Errorf("rdma: wait: %w", syscall.Errno(-w.taken))
	}
	w.pending = 0
	return nil
}

func (w *verbsWire) wake() { _ = w.events.SetReadDeadline(time.Unix(1, 0)) }

func (w *verbsWire) why(c *completion) error {
	text := C.GoString(C.ibv_wc_status_str(C.enum_ibv_wc_status(c.status)))
	switch c.status {
	case C.IBV_WC_RETRY_EXC_ERR:
		text += ": the peer's device has not answered"
	case C.IBV_WC_RNR_RETRY_EXC_ERR:
		text += ": the peer had given credit that it did not have"
	case C.IBV_WC_WR_FLUSH_ERR:
		text += ": the queue pair had failed before"
	}
	return fmt.Errorf("rdma: completion with status %d, %s", c.status, text)
}

// isUnanswered reports whether the device has given up waiting for the peer's.
func (w *verbsWire) isUnanswered(c *completion) bool { return c.status == C.IBV_WC_RETRY_EXC_ERR }

func (w *verbsWire) close() {
	C.hd_close(w.end)
	C.free(unsafe.Pointer(w.end))
	if w.events != nil {
		_ = w.events.Close()
	}
	for _, ring := range [][]byte{w.send, w.recv} {
		if ring != nil {
			_ = unix.Munmap(ring)
		}
	}
}

// fail has the queue pair fail, for tests.
func (w *verbsWire) fail() error {
	if e := C.hd_break(w.end); e != 0 {
		return syscall.Errno(e)
	}
	return nil
}

var errDeviceGone = errors.New("the RDMA device has failed or is gone")

func addressOf(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }
