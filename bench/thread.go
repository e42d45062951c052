package bench

import (
	"fmt"
	"math"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

const (
	// connectLimit bounds one attempt to connect; retryAfter is the pause before a lost connection is opened again.
	connectLimit = 5 * time.Second
	retryAfter   = 20 * time.Millisecond
	// drainLimit bounds the wait for the replies that are still missing when the time is up.
	drainLimit = 2 * time.Second
	// waitLimit is how long a thread sleeps at most before it looks at the clock and at plan.stop.
	waitLimit = 20 * time.Millisecond

	// readSize is the thread's input buffer, writeSize the length from which output is written before more is built: a
	// batch shorter than that goes out in one write. Both fit into a second-level cache.
	readSize  = 256 << 10
	writeSize = 256 << 10

	maxEvents = 512
)

// thread drives its share of the connections from one operating system thread. Its loop allocates nothing.
type thread struct {
	plan   *plan
	index  int
	conns  []conn
	epoll  int
	in     []byte
	out    []byte
	random random

	// A prefill stores the keys from nextKey on; otherwise keys are drawn. left is how many operations may still be begun.
	prefill bool
	nextKey uint64
	left    uint64

	begun, stopAt, ended time.Duration // since plan.base
	now                  time.Duration // when the input being handled was read
	busy                 int           // connections that wait for replies
	down                 int           // connections that are lost and not yet open again

	counts             counts
	latencyGet         *hdrhistogram.Histogram // nanoseconds
	latencySet         *hdrhistogram.Histogram
	userCPU, systemCPU time.Duration
	err                error
}

// counts is what a thread counts; counts of several threads are added up by add.
type counts struct {
	hits, misses, sets, failed         uint64 // answered operations; failed: answered with anything but what was asked for
	unanswered, corrupt, disconnects   uint64
	bytesOut, bytesIn                  uint64
	reads, writes, waits, partialReads uint64
	texts                              map[string]uint64 // what went wrong, by text; bounded by maxTexts
}

// maxTexts bounds the number of different texts that are counted one by one.
const maxTexts = 20

func (c *counts) complain(text string) {
	if _, known := c.texts[text]; !known && len(c.texts) >= maxTexts {
		text = "(others)"
	}
	c.texts[text]++
}

// latencyMax is the longest latency that histograms tell from longer ones, which count as that long.
const latencyMax = time.Minute

func newThread(p *plan, index int, prefill bool) *thread {
	cfg := &p.cfg
	t := &thread{
		plan: p, index: index, prefill: prefill, epoll: -1,
		in: make([]byte, readSize), random: random(cfg.Seed*1000003 + uint64(index)),
		latencyGet: hdrhistogram.New(1000, int64(latencyMax), 3),
		latencySet: hdrhistogram.New(1000, int64(latencyMax), 3),
	}
	t.counts.texts = make(map[string]uint64)
	share := func(all uint64) (from, until uint64) {
		n, i := uint64(cfg.Threads), uint64(index)
		return all/n*i + min(i, all%n), all/n*(i+1) + min(i+1, all%n)
	}
	pipeline := cfg.Pipeline
	switch {
	case prefill:
		from, until := share(cfg.Keys)
		t.nextKey, t.left = from, until-from
		pipeline = max(pipeline, 64)
	case cfg.Operations > 0:
		from, until := share(cfg.Operations)
		t.left = until - from
	default:
		t.left = math.MaxUint64
	}
	t.out = make([]byte, 0, writeSize+2*cfg.KeySize+64+cfg.Values.largest())
	for i := index; i < cfg.Connections; i += cfg.Threads {
		t.conns = append(t.conns, conn{
			fd: -1, index: int32(len(t.conns)), addr: p.servers[i%len(p.servers)],
			batch: make([]operation, 0, pipeline), carry: make([]byte, 0, maxLine),
		})
	}
	return t
}

// open pins the thread and opens its connections.
func (t *thread) open() error {
	if cpus := t.plan.cfg.CPUs; len(cpus) > 0 {
		if err := pinThread(cpus[t.index%len(cpus) : t.index%len(cpus)+1]); err != nil {
			return err
		}
	}
	var err error
	if t.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	for i := range t.conns {
		c := &t.conns[i]
		if t.plan.stop.Load() {
			return fmt.Errorf("stopped while connecting to %v", c.addr)
		}
		if err := t.connect(c); err != nil {
			return err
		}
		if c.state == connecting {
			fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLOUT}}
			for end := time.Now().Add(connectLimit); fds[0].Revents == 0; {
				left := time.Until(end)
				if left <= 0 {
					return fmt.Errorf("connect to %v: no answer within %v", c.addr, connectLimit)
				}
				if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && err != unix.EINTR {
					return fmt.Errorf("poll: %w", err)
				}
			}
			if err := t.connected(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// run is the loop: from the barrier at the start until everything begun is answered, or given up.
func (t *thread) run() {
	user, system := threadCPU()
	t.now = time.Since(t.plan.base)
	for i := range t.conns {
		t.begin(&t.conns[i])
	}
	var events [maxEvents]unix.EpollEvent
	for t.busy > 0 || !t.stopping() {
		n, err := unix.EpollWait(t.epoll, events[:], int(waitLimit.Milliseconds()))
		t.counts.waits++
		if err != nil && err != unix.EINTR {
			t.err = fmt.Errorf("epoll_wait: %w", err)
			break
		}
		t.now = time.Since(t.plan.base)
		for i := range max(n, 0) {
			t.event(&t.conns[events[i].Fd], events[i].Events)
		}
		if t.stopping() && t.now > t.stopAt+drainLimit {
			break
		}
		if t.down > 0 {
			t.reopen()
		}
	}
	t.ended = min(time.Since(t.plan.base), t.stopAt+drainLimit)
	for i := range t.conns {
		t.counts.unanswered += uint64(len(t.conns[i].batch) - t.conns[i].answered)
	}
	t.userCPU, t.systemCPU = threadCPU()
	t.userCPU, t.systemCPU = t.userCPU-user, t.systemCPU-system
}

// stopping reports whether nothing new is to be begun.
func (t *thread) stopping() bool {
	if t.plan.stop.Load() {
		t.stopAt = min(t.stopAt, t.now)
	}
	return t.left == 0 || t.now >= t.stopAt
}

// begin draws the next batch of the connection and sends it.
func (t *thread) begin(c *conn) {
	c.batch, c.answered, c.built = c.batch[:0], 0, 0
	if t.stopping() || c.state != open {
		return
	}
	n := min(uint64(cap(c.batch)), t.left)
	t.left -= n
	for range n {
		c.batch = append(c.batch, t.drawOperation())
	}
	c.waiting = true
	t.busy++
	c.sent = t.now
	t.send(c)
}

// drawOperation draws one operation.
func (t *thread) drawOperation() operation {
	if t.prefill {
		t.nextKey++
		return operation{set: true, key: t.nextKey - 1, size: t.plan.values.sizes.draw(uint32(t.random.next()))}
	}
	bits := t.random.next()
	o := operation{set: t.plan.setCut > 0 && uint32(bits) <= t.plan.setCut}
	if o.set {
		o.size = t.plan.values.sizes.draw(uint32(bits >> 32))
	}
	if t.plan.zipf != nil {
		o.key = t.plan.zipf.draw(&t.random)
	} else {
		o.key = t.random.below(t.plan.keys.count)
	}
	return o
}

// record notes that the replies just read answered so many operations of the connection.
func (t *thread) record(c *conn, gets, sets int) {
	latency := min(t.now-c.sent, latencyMax)
	// RecordValues fails only above the histogram's range, which latency is not.
	if gets > 0 {
		_ = t.latencyGet.RecordValues(int64(latency), int64(gets))
	}
	if sets > 0 {
		_ = t.latencySet.RecordValues(int64(latency), int64(sets))
	}
}

// close closes what the thread has open.
func (t *thread) close() {
	for i := range t.conns {
		if t.conns[i].fd >= 0 {
			_ = unix.Close(t.conns[i].fd)
		}
	}
	if t.epoll >= 0 {
		_ = unix.Close(t.epoll)
	}
}
