package rdma

import (
	"flag"
	"fmt"
	"hash/crc64"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"hermesd/replication"
	"hermesd/table"
)

var (
	randomMessages = flag.Int("rdma.messages", 0, "messages in each direction of the tests with random sizes; 0: as suits the test run")
	randomSeed     = flag.Uint64("rdma.seed", 1, "seed of their sizes")
)

var ecma = crc64.MakeTable(crc64.ECMA)

// checking is a handler that knows which message is due, and its checksum.
type checking struct {
	t    testing.TB
	want int
	next uint64
	done chan struct{} // closed: all have come

	// window bounds how far the sender is ahead, in steps of windowStep messages: what waits is in memory.
	window chan struct{}
}

const windowStep, windowSteps = 64, 400

func newChecking(t testing.TB, want int) *checking {
	return &checking{t: t, want: want, done: make(chan struct{}), window: make(chan struct{}, windowSteps)}
}

func (c *checking) PeerUp(replication.Member) error    { return nil }
func (c *checking) EndBatch(replication.Member)        {}
func (c *checking) PeerDown(replication.Member, error) {}
func (c *checking) Receive(m *replication.Message) {
	if m.ID != c.next {
		c.t.Errorf("message %d where %d was due", m.ID, c.next)
	}
	if len(m.Value) > 0 && m.CAS != crc64.Checksum(m.Value, ecma) {
		c.t.Errorf("message %d of %d bytes came damaged", m.ID, len(m.Value))
	}
	if c.next++; c.next%windowStep == 0 {
		<-c.window
	}
	if int(c.next) == c.want {
		close(c.done)
	}
}

func channelConfig(peer uint8) replication.ChannelConfig {
	return replication.ChannelConfig{Member: replication.Member{Number: peer, Incarnation: 1}, ValueMax: 64 << 20, OutLimit: 1 << 30,
		Counters: new(replication.ChannelCounters)}
}

// sendRandomly sends messages of sizes drawn so that each power of two up to 1 MiB is as likely, but large ones rarely; and flushes at times, and
// before it waits for the receiver.
func sendRandomly(ch replication.Channel, to *checking, stop <-chan struct{}, seed uint64, messages int) {
	r := rand.New(rand.NewPCG(seed, seed))
	pool := make([]byte, 1<<20)
	for i := range pool {
		pool[i] = byte(r.Uint32())
	}
	for i := range messages {
		bits := r.IntN(10)
		if r.IntN(300) == 0 {
			bits = r.IntN(21)
		}
		n := r.IntN(1 << bits)
		from := r.IntN(len(pool) - n)
		m := replication.Message{Kind: replication.INV, ID: uint64(i), TS: table.Timestamp{Write: 1<<8 | 1}, Key: []byte("k"), Value: pool[from : from+n]}
		if n > 0 {
			m.CAS = crc64.Checksum(m.Value, ecma)
		}
		ch.Send(&m)
		if (i+1)%windowStep == 0 {
			ch.Flush()
			select {
			case to.window <- struct{}{}:
			case <-stop: // the test has failed
				return
			}
		} else if r.IntN(5) == 0 {
			ch.Flush()
		}
	}
	ch.Flush()
}

// exchangeRandomly sends in both directions at once and waits until all has come.
func exchangeRandomly(t testing.TB, chans [2]replication.Channel, messages int) {
	var wg sync.WaitGroup
	stop := make(chan struct{})
	defer close(stop)
	handlers := [2]*checking{}
	for i := range 2 {
		handlers[i] = newChecking(t, messages)
		wg.Go(chans[i].Write)
		wg.Go(func() { chans[i].Break(chans[i].Read(handlers[i])) })
		chans[i].Open()
	}
	for i := range 2 {
		go sendRandomly(chans[i], handlers[1-i], stop, *randomSeed+uint64(i), messages)
	}
	for i := range 2 {
		select {
		case <-handlers[i].done:
		case <-time.After(4 * time.Minute):
			t.Errorf("end %d: not all messages have come; %v, %v", i, chans[0].Cause(), chans[1].Cause())
		}
	}
	for i := range 2 {
		chans[i].Break(fmt.Errorf("the test is over"))
	}
	wg.Wait()
}

// The same over the fake, which runs anywhere: with rings that are as small as can be, so that everything wraps and waits all the time.
func TestRandomSizesOverFakeVerbs(t *testing.T) {
	messages := 100_000
	if *randomMessages > 0 {
		messages = *randomMessages
	} else if testing.Short() {
		messages = 20_000
	}
	f := newFabric()
	var ends [2]*fakeEnd
	var chans [2]replication.Channel
	for i := range 2 {
		p := newFakePath(f, Options{RingBytes: 64 << 10, Depth: 16, Silence: time.Hour})
		defer p.Close()
		e, _ := p.Open(uint8(2-i), netip.Addr{})
		ends[i] = e.(*fakeEnd)
	}
	for i := range 2 {
		if err := ends[i].Connect(ends[1-i].Offer()); err != nil {
			t.Fatal(err)
		}
		chans[i] = ends[i].Channel(channelConfig(uint8(2 - i)))
	}
	exchangeRandomly(t, chans, messages)
	for i := range 2 {
		chans[i].Close()
	}
	f.requireClosed(t)
}
