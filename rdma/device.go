//go:build rdma

package rdma

/*
#cgo LDFLAGS: -libverbs
#cgo noescape hd_post
#cgo nocallback hd_post
#cgo noescape hd_poll
#cgo nocallback hd_poll
#include "verbs.h"
#include <stdlib.h>
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// device is an RDMA device that has been opened.
type device struct {
	name    string
	context *C.struct_ibv_context
	pd      *C.struct_ibv_pd
	limits  C.struct_hd_limits
	events  *os.File // the asynchronous ones
}

// deviceNames are the devices that libibverbs can use here.
func deviceNames() ([]string, error) {
	var names []string
	err := eachDevice(func(d *C.struct_ibv_device) bool {
		names = append(names, C.GoString(C.ibv_get_device_name(d)))
		return true
	})
	return names, err
}

func eachDevice(f func(d *C.struct_ibv_device) bool) error {
	var n C.int
	list, err := C.ibv_get_device_list(&n)
	if list == nil {
		if err == nil || errors.Is(err, syscall.ENOSYS) {
			return fmt.Errorf("%w: the kernel has no RDMA driver loaded", ErrNoDevice)
		}
		return fmt.Errorf("rdma: list the devices: %w", err)
	}
	defer C.ibv_free_device_list(list)
	for _, d := range unsafe.Slice(list, int(n)) {
		if !f(d) {
			break
		}
	}
	return nil
}

// openDevice opens the device of a name.
func openDevice(name string) (d *device, err error) {
	var failed error
	err = eachDevice(func(found *C.struct_ibv_device) bool {
		if C.GoString(C.ibv_get_device_name(found)) != name {
			return true
		}
		context, errno := C.ibv_open_device(found) // errno is only of a failure's
		if context == nil {
			failed = fmt.Errorf("rdma: cannot open %s: %w (a container needs its /dev/infiniband)", name, errno)
			return false
		}
		d = &device{name: name, context: context}
		return false
	})
	switch {
	case err != nil:
		return nil, err
	case failed != nil:
		return nil, failed
	case d == nil:
		return nil, fmt.Errorf("rdma: there is no device %s that libibverbs can use: 'hermesd rdma' lists them", name)
	}
	if e := C.hd_query(d.context, &d.limits); e != 0 {
		d.close()
		return nil, fmt.Errorf("rdma: ask %s for its limits: %w", name, syscall.Errno(e))
	}
	return d, nil
}

// use makes the device fit for queue pairs, and for events.
func (d *device) use() (err error) {
	if d.pd, err = C.ibv_alloc_pd(d.context); d.pd == nil {
		return fmt.Errorf("rdma: %s: a protection domain: %w", d.name, err)
	}
	if d.events, err = pollable(int(d.context.async_fd), d.name); err != nil {
		return fmt.Errorf("rdma: %s: events: %w", d.name, err)
	}
	return nil
}

// pollable is a descriptor of libibverbs's that Go's poller waits for. It is a second one for the same thing, since both ends close their own.
func pollable(fd int, name string) (*os.File, error) {
	second, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(second, true); err != nil {
		_ = unix.Close(second)
		return nil, err
	}
	return os.NewFile(uintptr(second), name), nil
}

func (d *device) close() {
	if d.events != nil {
		_ = d.events.Close()
	}
	if d.pd != nil {
		C.ibv_dealloc_pd(d.pd)
	}
	C.ibv_close_device(d.context)
}

// asyncEvent is an asynchronous event of a device.
type asyncEvent struct {
	kind string
	// What it is about: a queue pair, a port, or the device.
	qpn, port uint32
	active    bool // a port works (again), or has other addresses
	fatal     bool // what it is about does not work any more
}

// nextEvent waits for an event; an error means that the device has been closed, or is gone.
func (d *device) nextEvent() (e asyncEvent, err error) {
	raw, err := d.events.SyscallConn()
	if err != nil {
		return e, err
	}
	var out C.struct_hd_async
	got := C.int(0)
	err = raw.Read(func(uintptr) bool {
		got = C.hd_take_async(d.context, &out)
		return got != 0
	})
	if err != nil {
		return e, err
	}
	if got < 0 {
		return e, syscall.Errno(-got)
	}
	e = asyncEvent{kind: C.GoString(C.ibv_event_type_str(C.enum_ibv_event_type(out._type))), qpn: uint32(out.qpn), port: uint32(out.port)}
	switch out._type {
	case C.IBV_EVENT_PORT_ACTIVE, C.IBV_EVENT_GID_CHANGE, C.IBV_EVENT_LID_CHANGE:
		e.active = true
	case C.IBV_EVENT_DEVICE_FATAL, C.IBV_EVENT_CQ_ERR, C.IBV_EVENT_QP_FATAL, C.IBV_EVENT_QP_REQ_ERR, C.IBV_EVENT_QP_ACCESS_ERR:
		e.fatal = true
	}
	return e, nil
}

// ports are those of the device as they are now.
func (d *device) ports() ([]port, error) {
	all := make([]port, 0, d.limits.ports)
	for number := range int(d.limits.ports) {
		p, err := d.port(number + 1)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// What choose.go and verbs both say must be the same, or this does not compile.
var (
	_ [0]struct{} = [gidInfiniBand - C.IBV_GID_TYPE_IB]struct{}{}
	_ [0]struct{} = [gidRoCE1 - C.IBV_GID_TYPE_ROCE_V1]struct{}{}
	_ [0]struct{} = [gidRoCE2 - C.IBV_GID_TYPE_ROCE_V2]struct{}{}
)

func (d *device) port(number int) (p port, err error) {
	var out C.struct_hd_port
	if e := C.hd_query_port(d.context, C.uint32_t(number), &out); e != 0 {
		return p, fmt.Errorf("rdma: ask %s about its port %d: %w", d.name, number, syscall.Errno(e))
	}
	p = port{number: number, active: out.state == C.IBV_PORT_ACTIVE, state: C.GoString(C.ibv_port_state_str(C.enum_ibv_port_state(out.state))),
		linkIsEth: out.link_layer == C.IBV_LINK_LAYER_ETHERNET, mtu: uint32(out.active_mtu), lid: uint32(out.lid)}
	all := make([]C.struct_hd_gid, max(out.gid_table, 1))
	n := C.hd_gids(d.context, d.limits.ports, C.uint32_t(number), &all[0], C.int(len(all)))
	if n < 0 {
		return p, fmt.Errorf("rdma: ask %s for the GIDs of port %d: %w", d.name, number, syscall.Errno(-n))
	}
	for _, g := range all[:n] {
		to := gid{index: int(g.index), kind: gidKind(g._type), ifindex: int(g.ifindex)}
		for i := range to.raw {
			to.raw[i] = byte(g.raw[i])
		}
		p.gids = append(p.gids, to)
	}
	return p, nil
}
