//go:build rdma

package rdma

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"hermesd/replication"
)

// Built says whether this binary can use RDMA.
const Built = true

// path implements replication.Path over verbs.
type path struct {
	options  Options
	counters [replication.MaxMember + 1]Counters
	clock    clock
	revived  chan struct{}
	closing  chan struct{}
	wg       sync.WaitGroup // of the devices' events

	mu      sync.Mutex
	devices map[string]*device     // opened, by name
	chosen  map[netip.Addr]*choice // by address: finding a device reads hundreds of files
	gone    []*device              // those that have failed; closed at the end
}

// New finds the device of o.Address, if that is one, and returns the path of its channels. An error says why there can be none.
func New(o Options) (replication.Path, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	if err := checkLockedMemory(&o); err != nil {
		return nil, err
	}
	names, err := deviceNames()
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, ErrNoDevice
	}
	p := &path{options: o, revived: make(chan struct{}, 1), closing: make(chan struct{}), devices: make(map[string]*device),
		chosen: make(map[netip.Addr]*choice)}
	if o.Device != "" || o.Address.IsValid() && !o.Address.IsUnspecified() {
		c, err := p.choose(o.Address)
		switch {
		case err == nil:
			o.Logger.Info().Stringer("device", c).Str("why", c.why).Int("kib_per_peer", o.MemoryPerPeer()>>10).Msg("rdma: device found")
		case o.AwaitPort && errors.Is(err, errInactive):
			o.Logger.Warn().Str("reason", err.Error()).Msg("rdma: no channels until the port is active")
		default:
			p.closeDevices()
			return nil, err
		}
	}
	p.clock.start(o.Silence)
	return p, nil
}

func (p *path) Name() string                                    { return "rdma" }
func (p *path) Revived() <-chan struct{}                        { return p.revived }
func (p *path) Stats(peer uint8, f func(name string, v uint64)) { p.counters[peer].each(f) }

// open opens a device, or returns it if it is open.
func (p *path) open(name string) (*device, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := p.devices[name]; d != nil {
		return d, nil
	}
	d, err := openDevice(name)
	if err != nil {
		return nil, err
	}
	if err := d.use(); err != nil {
		d.close()
		return nil, err
	}
	p.devices[name] = d
	p.wg.Go(func() { p.listen(d) })
	return d, nil
}

// choose is choose for an address that may have been asked for before: then its device is known, and only port and GID are looked at anew.
func (p *path) choose(addr netip.Addr) (c *choice, err error) {
	p.mu.Lock()
	before := p.chosen[addr]
	p.mu.Unlock()
	if before != nil {
		if c, err = chooseOn(before.device, before.port.number, before.known, addr, &p.options, p.open, 0); err == nil {
			return c, nil
		}
	}
	if c, err = choose(addr, &p.options, p.open); err == nil {
		p.mu.Lock()
		p.chosen[addr] = c
		p.mu.Unlock()
	}
	return c, err
}

// reviveAfter is how long after a port has become active channels are set up anew: its addresses come a moment later.
const reviveAfter = 500 * time.Millisecond

// listen heeds a device's events until it is closed.
func (p *path) listen(d *device) {
	for {
		e, err := d.nextEvent()
		if err != nil {
			select {
			case <-p.closing:
			default:
				p.lose(d, err)
			}
			return
		}
		log := p.options.Logger.Info()
		if e.fatal {
			log = p.options.Logger.Error()
		}
		log.Str("device", d.name).Uint32("port", e.port).Uint32("queue_pair", e.qpn).Str("event", e.kind).Msg("rdma: event")
		switch {
		case e.fatal && e.qpn != 0:
			p.breakPair(d, e.qpn, fmt.Errorf("rdma: %s: %s", d.name, e.kind))
		case e.fatal:
			p.lose(d, errors.New(e.kind))
		case e.active:
			p.wg.Go(p.revive)
		}
	}
}

func (p *path) revive() {
	select {
	case <-time.After(reviveAfter):
	case <-p.closing:
		return
	}
	select {
	case p.revived <- struct{}{}:
	default: // that has been said
	}
}

// lose ends the channels of a device that has failed. The next channel tries to open it anew.
func (p *path) lose(d *device, reason error) {
	p.options.Logger.Error().Str("device", d.name).Err(reason).Msg("rdma: the device has failed")
	p.mu.Lock()
	if p.devices[d.name] == d {
		delete(p.devices, d.name)
		p.gone = append(p.gone, d)
	}
	p.mu.Unlock()
	for _, ch := range p.clock.all() {
		if w, ok := ch.wire.(*deviceWire); ok && w.device == d {
			ch.Break(errDeviceGone)
		}
	}
}

func (p *path) breakPair(d *device, qpn uint32, reason error) {
	for _, ch := range p.clock.all() {
		if w, ok := ch.wire.(*deviceWire); ok && w.device == d && w.number == qpn {
			ch.Break(reason)
		}
	}
}

// deviceWire is a wire that knows its device, for events.
type deviceWire struct {
	*verbsWire
	device *device
	number uint32
}

// Open implements replication.Path.
func (p *path) Open(peer uint8, local netip.Addr) (replication.PathEnd, error) {
	addr := p.options.Address
	if !addr.IsValid() || addr.IsUnspecified() {
		addr = local
	}
	c, err := p.choose(addr)
	if err != nil {
		return nil, err
	}
	d, err := p.open(c.device)
	if err != nil {
		return nil, err
	}
	w, err := newVerbsWire(d, c.port.number, &p.options)
	if err != nil {
		return nil, err
	}
	return &end{path: p, peer: peer, choice: c, wire: &deviceWire{w, d, w.qpn()}, psn: rand.Uint32N(1 << 24)}, nil
}

// Close implements replication.Path.
func (p *path) Close() error {
	p.clock.stop()
	p.closeDevices()
	return nil
}

func (p *path) closeDevices() {
	close(p.closing)
	p.mu.Lock()
	all := p.gone
	for _, d := range p.devices {
		all = append(all, d)
	}
	p.devices, p.gone = nil, nil
	p.mu.Unlock()
	for _, d := range all {
		_ = d.events.SetReadDeadline(time.Unix(1, 0))
	}
	p.wg.Wait()
	for _, d := range all {
		d.close()
	}
}

// end implements replication.PathEnd.
type end struct {
	path     *path
	peer     uint8
	choice   *choice
	wire     *deviceWire
	psn      uint32
	receives int // requests used up
}

// Offer implements replication.PathEnd.
func (e *end) Offer() []byte { return e.offer().append(nil) }

func (e *end) offer() *offer {
	return &offer{mtu: e.choice.port.mtu, global: e.choice.port.linkIsEth || e.path.options.GIDIndex != "", kind: e.choice.gid.kind,
		depth: uint32(e.path.options.Depth), ring: uint32(e.path.options.RingBytes), qpn: e.wire.number, psn: e.psn, lid: e.choice.port.lid, rkey: e.wire.rkey(),
		at: uint64(addressOf(e.wire.recv)), gid: e.choice.gid.raw}
}

// Connect implements replication.PathEnd.
func (e *end) Connect(b []byte) error {
	o, err := parseOffer(b, e.offer())
	if err != nil {
		return err
	}
	return e.wire.connect(e.choice, e.psn, &o, &e.path.options)
}

// Probe implements replication.PathEnd: a packet of the full size goes there, and its acknowledgement comes back.
func (e *end) Probe(ctx context.Context) (err error) {
	stop := context.AfterFunc(ctx, e.wire.wake)
	defer func() {
		if !stop() && err == nil { // it has been woken for good
			err = ctx.Err()
		}
	}()
	n := mtuBytes(e.choice.port.mtu)
	for i := range e.wire.send[:n] {
		e.wire.send[i] = byte(i)
	}
	if err := e.wire.post(0, []request{{length: uint32(n), imm: immProbe, flags: requestImmediate | requestSignalled}}); err != nil {
		return err
	}
	var out [pollMax]completion
	for {
		n, err := e.wire.poll(e.receives, true, out[:])
		if err != nil {
			return err
		}
		e.receives = 0
		for i := range out[:n] {
			switch c := &out[i]; {
			case c.status != 0 && e.wire.isUnanswered(c):
				return e.errUnanswered()
			case c.status != 0:
				return e.wire.why(c)
			case c.receive == 1: // the peer's probe
				e.receives++
			default:
				return nil
			}
		}
		if n > 0 {
			continue
		}
		if err := e.wire.wait(); err != nil {
			if ctx.Err() == nil {
				return err
			}
			return e.errUnanswered()
		}
	}
}

// errUnanswered is the same whether the device gives up or we do: how often it tries depends on --suspect-after.
func (e *end) errUnanswered() error {
	return fmt.Errorf("rdma: %d bytes from %s to the peer were not acknowledged in time: do both ends' networks let RoCE pass (UDP port 4791), and frames of that size?",
		mtuBytes(e.choice.port.mtu), e.choice.device)
}

// Channel implements replication.PathEnd.
func (e *end) Channel(cfg replication.ChannelConfig) replication.Channel {
	c := &e.path.counters[e.peer]
	c.channels.Add(1)
	return e.path.clock.watch(newChannel(e.wire, &e.path.options, c, e.receives, cfg))
}

// Close implements replication.PathEnd.
func (e *end) Close() { e.wire.close() }
