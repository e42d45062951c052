package replication

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"hermesd/table"
)

// simHooks are the places at which a mutant changes the world. The zero value changes nothing.
type simHooks struct {
	config       func(cfg *simConfig)
	send         func(s *sim, from *simReplica, to int, m *Message) []*Message // what goes on the wire instead of m, which is the hook's
	receive      func(s *sim, at *simReplica, m *Message) (swallowed bool)
	items        func(*fakeStore) Items
	unique       func() uint64
	unordered    bool // messages of a lane overtake each other on a connection
	lateDelivery bool // messages come after their connection has been replaced
	evictAlone   bool // a replica gives items up without asking
	// Of groups whose views change:
	noWait           bool // the leader does not wait for leases to run out
	noRounds         bool // it answers heartbeats without asking a majority
	leaseFromReceipt bool // a lease counts from the receipt of its answer
	skew             bool // a clock runs far slower than the bound allows
	ignoreSettled    bool // a replica always says that it is settled
	servedSoon       bool // a replica says that it has caught up when it has not
	noLeases         bool // a replica serves in whatever view it has entered
	dropNewer        bool // messages of views not yet entered are dropped
	// Of whole nodes:
	entering     func(*simNode)                // is about to enter a view
	housekeeping func(*simNode)                // is about to do what it does now and then
	peerUp       func(*simNode, Member) func() // has a new channel; the result is called after it

	clientsOnly bool // nothing is checked but what clients have seen
	tracer      Tracer
}

var simMutate = flag.Int("sim.mutate", 0, "how many seeds a mutant may survive; 0: a few hundred, and only mutants that do harm often")

// simMutant is a broken world, or an engine broken from outside: what the simulation is for is to catch it.
type simMutant struct {
	name   string
	why    string // what of the protocol it takes away
	mutate func() simHooks
	// unseen says that clients need not be able to tell: the checks of the replicas' states find it long before any of them has seen
	// anything wrong.
	unseen bool
	// rare mutants do harm only where several things come together, and take long: `make mutate`.
	rare bool
	// long mutants take some seconds, and are not for -short, nor for the race detector, which has nothing to find in one goroutine.
	long bool
	// views: the mutant is one of groups whose views change.
	views bool
}

var simMutants = []simMutant{
	{name: "an INV is lost though its connection lives", why: "a channel is reliable", mutate: func() simHooks {
		return simHooks{send: dropped(INV, 40)}
	}},
	{name: "an ACK is lost though its connection lives", why: "a channel is reliable", mutate: func() simHooks {
		return simHooks{send: dropped(ACK, 40)}
	}},
	{name: "messages overtake each other", why: "a channel is ordered per lane", mutate: func() simHooks {
		return simHooks{unordered: true}
	}},
	{name: "messages come after their connection was replaced", rare: true, why: "PeerUp: nothing of an earlier channel can still be delivered", mutate: func() simHooks {
		return simHooks{lateDelivery: true, config: (*simConfig).makeBrittle}
	}},
	{name: "a NACK arrives as an ACK", why: "a follower refuses an overtaken read-modify-write", mutate: func() simHooks {
		return simHooks{send: func(_ *sim, _ *simReplica, _ int, m *Message) []*Message {
			if m.Kind == NACK {
				*m = Message{Kind: ACK, Lane: m.Lane, From: m.From, Epoch: m.Epoch, Clock: m.Clock, ID: m.ID, TS: m.TS}
			}
			return []*Message{m}
		}}
	}},
	{name: "VAL follows INV at once", why: "an update is valid when all have acknowledged it", mutate: func() simHooks {
		return simHooks{send: func(_ *sim, _ *simReplica, _ int, m *Message) []*Message {
			if m.Kind != INV {
				return []*Message{m}
			}
			val := &Message{Kind: VAL, Bits: m.Bits & BitFlush, Lane: m.Lane, From: m.From, Epoch: m.Epoch, Clock: m.Clock, TS: m.TS, Key: m.Key}
			return []*Message{m, val}
		}}
	}},
	{name: "VAL validates whatever is there", why: "VAL names a time stamp", mutate: func() simHooks {
		return simHooks{receive: func(_ *sim, at *simReplica, m *Message) bool {
			if m.Kind == VAL && len(m.Key) > 0 {
				if it, st := at.lanes[m.Lane].peek(string(m.Key)); st == keyInvalid && !it.TS.IsZero() {
					m.TS = it.TS
				}
			}
			return false
		}}
	}},
	{name: "a client is answered before the acknowledgements are in", why: "an answered update is everywhere", mutate: func() simHooks {
		return simHooks{send: func(s *sim, from *simReplica, to int, m *Message) []*Message {
			if m.Kind == INV {
				ack := &Message{Kind: ACK, Lane: m.Lane, From: s.replicas[to].self, Epoch: m.Epoch, Clock: m.Clock, ID: m.ID, TS: m.TS}
				s.after(0, from.index, func() {
					from.drive.Receive(ack)
					s.acted(from, -1, "")
				})
			}
			return []*Message{m}
		}}
	}},
	{name: "an INV is acknowledged and not kept", why: "an answered update is everywhere", mutate: func() simHooks {
		return simHooks{receive: forgets(0, 20)}
	}},
	{name: "a flush is acknowledged and not carried out", why: "flush_all: no replica holds anything older", mutate: func() simHooks {
		return simHooks{receive: forgets(BitFlush, 2), config: func(c *simConfig) { c.weights[simKinds-1] = 5 }}
	}},
	{name: "a probe is answered while the update is under way", why: "only what is valid at the finisher is told", mutate: func() simHooks {
		return simHooks{receive: func(s *sim, at *simReplica, m *Message) bool {
			if m.Kind != PROBE || m.Bits&BitFlush != 0 {
				return false
			}
			val := &Message{Kind: VAL, Lane: m.Lane, From: at.self, Epoch: m.Epoch, Clock: m.Clock, TS: m.TS, Key: m.Key}
			s.transmit(at, int(m.From.Number)-1, copyMessage(val))
			return true
		}}
	}},
	{name: "clocks are ahead of what was sent", why: "a clock says that all older writes of its member have been sent", mutate: func() simHooks {
		return simHooks{config: (*simConfig).makeBrittle, send: func(s *sim, _ *simReplica, _ int, m *Message) []*Message {
			if s.chance(4) {
				m.Clock += 2
			}
			return []*Message{m}
		}}
	}},
	{name: "clocks count before the MARK", why: "updates sent again are older than clocks before them", mutate: func() simHooks {
		return simHooks{config: (*simConfig).makeBrittle, receive: func(_ *sim, at *simReplica, m *Message) bool {
			at.lanes[m.Lane].lane.unmarked = 0
			return false
		}}
	}},
	{name: "MARK is swallowed", why: "clocks count from the MARK on", mutate: func() simHooks {
		return simHooks{receive: func(_ *sim, _ *simReplica, m *Message) bool { return m.Kind == MARK }}
	}},
	{name: "tombstones are forgotten at once", unseen: true, why: "a time stamp never falls, also of a key that is gone", mutate: func() simHooks {
		return simHooks{items: func(s *fakeStore) Items { return forgetful{s} }}
	}},
	{name: "invalid keys are read", why: "reads of an invalid key wait", mutate: func() simHooks {
		return simHooks{items: func(s *fakeStore) Items { return credulous{s} }}
	}},
	{name: "unique numbers repeat", why: "no two adds have one time stamp, no two values one cas unique", mutate: func() simHooks {
		return simHooks{unique: func() uint64 { return 7 }}
	}},
	{name: "an update sent again gets a new time stamp", why: "an update keeps its time stamp", mutate: func() simHooks {
		type sentTo struct {
			from, to int
			lane     uint8
			id       uint64
		}
		seen := make(map[sentTo]bool)
		return simHooks{config: func(c *simConfig) { c.breaks = 15 * c.delay }, send: func(_ *sim, from *simReplica, to int, m *Message) []*Message {
			if key := (sentTo{from.index, to, m.Lane, m.ID}); m.Kind == INV && !seen[key] {
				seen[key] = true
			} else if m.Kind == INV {
				m.TS.Write += 1 << 8
			}
			return []*Message{m}
		}}
	}},
	{name: "a replica loses its memory when a connection breaks", why: "an answered update is in every replica's memory", mutate: func() simHooks {
		return simHooks{config: func(c *simConfig) { c.breaks = 30 * c.delay }, receive: func(s *sim, at *simReplica, m *Message) bool {
			if m.Kind == MARK && s.active > 0 {
				at.lanes[m.Lane].items.(*fakeStore).recs = nil
				at.lanes[m.Lane].items.(*fakeStore).changes++
			}
			return false
		}}
	}},
	{name: "a replica evicts alone", why: "an eviction is a delete on which all agree", mutate: func() simHooks {
		return simHooks{evictAlone: true, config: func(c *simConfig) { c.evictions = 5 * c.delay }}
	}},

	// Of the control plane and of what the node does around its lanes. The engine's own rules are in rules_views_test.go.
	{name: "a member is removed while its lease may last", views: true, why: "removal waits until the last lease has surely run out", mutate: func() simHooks {
		return simHooks{noWait: true, config: func(c *simConfig) {
			c.strained()
			c.pauses, c.partitions = 0, 2*c.steps(c.views.Lease)
		}}
	}},
	{name: "a heartbeat is answered without a quorum round", views: true, why: "who gives leases is the leader still", mutate: func() simHooks {
		return simHooks{noRounds: true, config: (*simConfig).strained}
	}},
	{name: "a lease counts from the receipt of its answer", views: true, why: "a lease counts from when the heartbeat was sent", mutate: func() simHooks {
		return simHooks{leaseFromReceipt: true, config: (*simConfig).strained}
	}},
	{name: "a clock is slower than the bound allows", views: true, why: "the rates of clocks differ by a bounded amount", mutate: func() simHooks {
		return simHooks{skew: true, config: (*simConfig).strained}
	}},
	{name: "a number is given out again while updates of its old life are unvalidated", views: true, why: "a joiner is listed when all have settled", mutate: func() simHooks {
		return simHooks{ignoreSettled: true, config: func(c *simConfig) {
			c.onlyViews()
			c.full = 0
			c.tick, c.crashes = c.steps(c.views.SuspectAfter), 6*c.steps(c.views.Lease) // it takes long to settle
		}}
	}},
	{name: "a joiner serves before its stream is complete", views: true, why: "a member serves when it has everything", mutate: func() simHooks {
		return simHooks{servedSoon: true, config: (*simConfig).onlyViews}
	}},
	{name: "messages of a newer view are dropped", views: true, why: "they stall their channel", mutate: func() simHooks {
		return simHooks{dropNewer: true, config: (*simConfig).onlyViews}
	}},
	{name: "a replica serves without a lease", views: true, why: "who may have been removed does not answer", mutate: func() simHooks {
		return simHooks{noLeases: true, config: (*simConfig).strained}
	}},
	{name: "messages of any epoch count", views: true, rare: true, why: "what is of another view is void", mutate: func() simHooks {
		return simHooks{config: (*simConfig).onlyViews, receive: func(s *sim, at *simReplica, m *Message) bool {
			m.Epoch = at.view.Epoch // whatever view it is of
			return false
		}}
	}},
}

// dropped loses one message of a kind in so many.
func dropped(kind Kind, oneIn int) func(*sim, *simReplica, int, *Message) []*Message {
	return func(s *sim, _ *simReplica, _ int, m *Message) []*Message {
		if m.Kind == kind && s.chance(oneIn) {
			return nil
		}
		return []*Message{m}
	}
}

// forgets acknowledges one INV in so many, of a flush or not, and does nothing else with it.
func forgets(flush uint8, oneIn int) func(*sim, *simReplica, *Message) bool {
	return func(s *sim, at *simReplica, m *Message) bool {
		if m.Kind != INV || m.Bits&BitFlush != flush || !s.chance(oneIn) {
			return false
		}
		l := at.lanes[m.Lane].lane
		l.hear(m)
		s.transmit(at, int(m.From.Number)-1, &Message{Kind: ACK, Lane: m.Lane, From: at.self, Epoch: m.Epoch, Clock: l.clock, ID: m.ID, TS: m.TS})
		return true
	}
}

// forgetful is a store that drops valid tombstones by itself.
type forgetful struct{ *fakeStore }

func (f forgetful) Update(it *table.Item) error {
	if it.State == table.Tombstone {
		f.fakeStore.Remove(it)
		return nil
	}
	return f.fakeStore.Update(it)
}

// credulous is a store that shows other members' invalid items as valid.
type credulous struct{ *fakeStore }

func (c credulous) Find(hash uint64, key []byte, it *table.Item) bool {
	found := c.fakeStore.Find(hash, key, it)
	if found && it.TS.Write&0xff != 1 {
		it.State &^= table.Invalid
	}
	return found
}

// catch runs seeds until one of them is violated, and tells which and how.
func (m *simMutant) catch(seeds int, clientsOnly bool) (seed uint64, how string) {
	for seed := uint64(1); seed <= uint64(seeds); seed++ {
		if c := drawSimConfig(seed, rand.New(rand.NewPCG(seed, 1))); !m.views && (c.nodes || c.replicas == 1 || c.dynamic) {
			continue // these mutants are of bare lanes in one view
		}
		h := m.mutate()
		h.clientsOnly = clientsOnly
		if _, wrong := simulate(seed, h, nil); wrong != "" {
			return seed, wrong
		}
	}
	return 0, ""
}

// simMutantSeeds is how many seeds a mutant may survive. Most are found out by the first few.
const simMutantSeeds = 1000

// TestSimulationCatches: whatever breaks the world's or the engine's contract is found out, by the checks of states and by what clients
// have seen.
func TestSimulationCatches(t *testing.T) {
	seeds := simMutantSeeds
	if *simMutate != 0 {
		seeds = *simMutate
	}
	for _, m := range slices.Concat(simMutants, simNodeMutants) {
		if m.rare && *simMutate == 0 || m.long && (testing.Short() || raceEnabled) {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			seed, how := m.catch(seeds, false)
			if seed == 0 {
				t.Fatalf("%d seeds have not noticed that %s", seeds, m.name)
			}
			if m.views {
				if _, wrong := simulate(seed, simHooks{config: m.mutate().config}, nil); wrong != "" {
					t.Fatalf("seed %d goes wrong without the mutant too: %s", seed, wrong)
				}
			}
			report := fmt.Sprintf("%s: seed %d: %s", m.why, seed, firstLine(how))
			if testing.Short() || m.views {
				t.Log(report)
				return
			}
			seen, how := m.catch(seeds, true)
			if seen == 0 && !m.unseen {
				t.Errorf("%s\nbut %d seeds of clients have not noticed", report, seeds)
			}
			t.Logf("%s\nclients: seed %d: %s", report, seen, firstLine(how))
		})
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
