package views

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

func TestGroupForms(t *testing.T) {
	c := newCluster(t, DefaultTiming, 0, 1, 2, 3)
	c.start(2, 3)
	c.until("the others wait for replica 1", func() bool {
		return strings.Contains(c.servers[2].driver.Why(), "replica 1 at "+c.address(1)+" does not answer")
	})
	c.start(1)
	t.Log("formed after", c.serve(1, 2, 3))
	if _, v := c.servers[1].host.get(); v.Epoch != 1 || v.Generation != 1 {
		t.Errorf("the first view is %v", v)
	}
}

func TestFollowerIsKilledAndReturns(t *testing.T) {
	c := newCluster(t, DefaultTiming, 0, 1, 2, 3)
	c.start(1, 2, 3)
	c.serve(1, 2, 3)
	victim := c.follower()
	before, _ := c.servers[victim].host.get()
	c.kill(victim)
	t.Log("view without the killed follower after", c.serve(c.others(victim)...))
	c.start(victim)
	t.Log("serves again after", c.serve(1, 2, 3))
	if after, _ := c.servers[victim].host.get(); after.Incarnation <= before.Incarnation {
		t.Errorf("%v has returned as %v", before, after)
	}
}

func TestLeaderIsKilledAndReturns(t *testing.T) {
	c := newCluster(t, DefaultTiming, 0, 1, 2, 3)
	c.start(1, 2, 3)
	c.serve(1, 2, 3)
	victim := c.leader()
	c.kill(victim)
	t.Log("view without the killed leader after", c.serve(c.others(victim)...))
	c.start(victim)
	t.Log("serves again after", c.serve(1, 2, 3))
}

func TestEverybodyIsRestarted(t *testing.T) {
	c := newCluster(t, DefaultTiming, 0, 1, 2, 3)
	c.start(1, 2, 3)
	c.serve(1, 2, 3)
	for n := range c.servers {
		c.kill(n)
	}
	c.start(1, 2, 3)
	c.serve(1, 2, 3)
	// Nothing was left, so the group has begun anew, and says so.
	if _, v := c.servers[1].host.get(); v.Generation != 2 {
		t.Errorf("after everybody was lost the view is %v", v)
	}
}

func TestReplicaReturnsWithoutItsDataDirectory(t *testing.T) {
	c := newCluster(t, DefaultTiming, 0, 1, 2, 3)
	c.start(1, 2, 3)
	c.serve(1, 2, 3)
	for range 2 { // the second time its old server has been removed from raft already
		victim := c.follower()
		c.kill(victim)
		c.servers[victim].dir += "-new"
		c.start(victim)
		c.serve(1, 2, 3)
		c.until("raft has three servers", func() bool {
			servers := c.servers[c.leader()].driver.raft.GetConfiguration().Configuration().Servers
			return len(servers) == 3
		})
	}
	if _, v := c.servers[1].host.get(); v.Generation != 1 {
		t.Errorf("the view is %v", v)
	}
}

func TestMajorityReturnsWithoutDataDirectories(t *testing.T) {
	c := newCluster(t, DefaultTiming, 0, 1, 2, 3)
	c.start(1, 2, 3)
	c.serve(1, 2, 3)
	c.kill(1)
	c.kill(2)
	c.servers[1].dir += "-new"
	c.servers[2].dir += "-new"
	c.start(1, 2)
	for _, n := range []uint8{1, 2, 3} {
		c.until("the replicas say what has happened", func() bool {
			return strings.Contains(c.servers[n].driver.Why(), "if the data directories of a majority are lost, the group is")
		})
	}
	c.until("replica 3 does not serve without a majority, when its lease is over", func() bool { return !c.servers[3].host.serves() })
	c.kill(3)
	c.servers[3].dir += "-new"
	c.start(3)
	c.serve(1, 2, 3)
}

func TestLastServingReplicaIsLost(t *testing.T) {
	c := newCluster(t, DefaultTiming, 0, 1, 2, 3)
	c.start(1, 2, 3)
	c.serve(1, 2, 3)
	for _, n := range []uint8{2, 3} { // they return, and do not catch up
		c.kill(n)
		c.startSlow(n)
		c.until("the replica is catching up", func() bool {
			_, v := c.servers[n].host.get()
			return v.Has(c.servers[n].host.member())
		})
	}
	c.kill(1)
	client, ctx := c.client(2), testContext(t)
	c.until("the leader knows that replica 1 is gone, and keeps it", func() bool {
		st, err := client.Status(ctx)
		slot, _ := st.Slot(1)
		return err == nil && slot.State == "serving" && strings.Contains(slot.Why, "it stays") && st.Generation == 1
	})
	c.start(1)
	c.serve(1, 2, 3)
	if _, v := c.servers[1].host.get(); v.Generation != 2 {
		t.Errorf("the view is %v", v)
	}
}

func TestReplicaLeaves(t *testing.T) {
	c := newCluster(t, DefaultTiming, 0, 1, 2, 3)
	c.start(1, 2, 3)
	c.serve(1, 2, 3)
	for _, n := range []uint8{c.follower(), 0} {
		if n == 0 {
			n = c.leader()
		}
		began := time.Now()
		if err := c.servers[n].driver.Leave(testContext(t)); err != nil {
			t.Fatal(err)
		}
		t.Log("left in", time.Since(began))
		if c.servers[n].host.serves() {
			t.Errorf("replica %d has left and serves", n)
		}
		c.stop(n)
		c.serve(c.others(n)...)
		c.start(n)
		c.serve(1, 2, 3)
	}
}

func TestAllLeave(t *testing.T) {
	c := newCluster(t, DefaultTiming, 0, 1, 2, 3)
	c.start(1, 2, 3)
	c.serve(1, 2, 3)
	var all sync.WaitGroup
	for _, s := range c.servers {
		all.Go(func() {
			if err := s.driver.Leave(testContext(t)); err != nil {
				t.Errorf("replica %d: %v", s.number, err)
			}
		})
	}
	all.Wait()
}

func TestReplicaIsAddedRemovedAndReplaced(t *testing.T) {
	c := newCluster(t, DefaultTiming, 0, 1, 2, 3)
	c.start(1, 2, 3)
	c.serve(1, 2, 3)
	ctx := testContext(t)
	client := c.client(c.follower())

	c.place(t, 4, false)
	c.start(4)
	c.until("replica 4 is told that it must be added", func() bool {
		return strings.Contains(c.servers[4].driver.Why(), "hermesd group add 4="+c.address(4))
	})
	if err := client.Add(ctx, 4, c.address(4), false); err != nil {
		t.Fatal(err)
	}
	c.serve(1, 2, 3, 4)
	if err := client.Add(ctx, 5, c.address(4), false); err == nil || !strings.Contains(err.Error(), "is the address of replica 4") {
		t.Errorf("an address given twice: %v", err)
	}

	leader := c.leader()
	client = c.client(c.follower())
	if err := client.Remove(ctx, leader, false); err != nil {
		t.Fatal(err)
	}
	c.serve(c.others(leader)...)
	c.until("another server leads, and raft has three", func() bool {
		now := c.leader()
		return now != leader && len(c.servers[now].driver.raft.GetConfiguration().Configuration().Servers) == 3
	})
	if c.servers[leader].host.serves() {
		t.Error("the removed replica serves")
	}
	c.stop(leader)
	delete(c.servers, leader)

	victim := c.follower()
	c.kill(victim)
	moved := &server{number: victim, port: newPort(t), dir: t.TempDir()}
	client = c.client(c.leader())
	if err := client.Replace(ctx, victim, moved.port.listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	c.servers[victim] = moved
	seeds := c.seeds
	c.seeds = map[uint8]string{}
	for n, a := range seeds {
		if n != victim && n != leader {
			c.seeds[n] = a
		}
	}
	c.start(victim)
	c.serve(c.others(0)...)
}

func TestLastServingReplicaIsRemovedOnlyByForce(t *testing.T) {
	c := newCluster(t, DefaultTiming, 3, 1, 2, 3)
	c.start(1, 2, 3)
	c.serve(1, 2)
	ctx := testContext(t)
	c.kill(2)
	c.serve(1)
	c.kill(1) // the last one, and it does not return
	client := c.client(3)
	c.startSlow(2)
	c.until("replica 2 asks to join", func() bool {
		st, err := client.Status(ctx)
		slot, _ := st.Slot(2)
		return err == nil && slot.State == "joining"
	})
	if err := client.Replace(ctx, 1, "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "loses all that it holds") || strings.Contains(err.Error(), "force") {
		t.Errorf("the last serving replica is replaced, or what to do is something that replace does not have: %v", err)
	}
	if err := client.Remove(ctx, 1, false); err == nil || !strings.Contains(err.Error(), "loses all that it holds") || !strings.Contains(err.Error(), "--force") {
		t.Errorf("removing the last one: %v", err)
	}
	if err := client.Remove(ctx, 1, true); err != nil {
		t.Fatal(err)
	}
	c.serve(2)
	if _, v := c.servers[2].host.get(); v.Generation != 2 {
		t.Errorf("the view is %v", v)
	}
}

func TestPairWithWitness(t *testing.T) {
	c := newCluster(t, DefaultTiming, 3, 1, 2, 3)
	c.start(1, 2, 3)
	c.serve(1, 2)
	for _, n := range []uint8{1, 2} {
		c.kill(n)
		t.Log("the other of the pair serves alone after", c.serve(3-n))
		c.start(n)
		c.serve(1, 2)
	}
	c.kill(3)
	c.until("the pair has a leader", func() bool { return c.leader() != 3 && c.serving(1, 2) })
}

func TestReplicasThatCannotReachEachOther(t *testing.T) {
	c := newCluster(t, DefaultTiming, 0, 1, 2, 3)
	c.start(1, 2, 3)
	c.serve(1, 2, 3)
	c.servers[1].host.setUnreachable(bit(3))
	c.servers[3].host.setUnreachable(bit(1))
	c.until("replica 3, the one with the higher number, begins anew", func() bool { return c.servers[3].host.lives() == 2 })
	c.servers[1].host.setUnreachable(0)
	c.serve(1, 2, 3)
	if c.servers[1].host.lives() != 1 || c.servers[2].host.lives() != 1 {
		t.Error("others have been restarted too")
	}
}

// TestStatusIsWhatPeopleWaitFor: a replica is said to have a lease only when it had one, and a witness that is gone does not go unnoticed.
func TestStatusIsWhatPeopleWaitFor(t *testing.T) {
	c := newCluster(t, DefaultTiming, 3, 1, 2, 3)
	c.start(1, 2, 3)
	slots := func() map[uint8]SlotStatus {
		all := map[uint8]SlotStatus{}
		if leader := c.leader(); leader != 0 {
			if s, err := c.servers[leader].driver.Status(); err == nil {
				for _, slot := range s.Slots {
					all[slot.Number] = slot
				}
			}
		}
		return all
	}
	c.until("both replicas have leases", func() bool {
		s := slots()
		return s[1].Leased && s[2].Leased
	})
	c.until("nothing is said against them, nor of the witness", func() bool {
		return c.servers[1].driver.Why() == "" && c.servers[2].driver.Why() == "" && slots()[3].Why == ""
	})
	c.kill(3)
	c.until("the witness is missed", func() bool { return slots()[3].Why == "it does not answer" })
}

// TestWitnessIsLookedInOn: though nothing happens in the group, the leader knows whether the witness is there.
func TestWitnessIsLookedInOn(t *testing.T) {
	c := newCluster(t, DefaultTiming, 3, 1, 2, 3)
	c.start(1, 2, 3)
	c.serve(1, 2)
	c.leadsNot(3)
	d := c.servers[c.leader()].driver
	confirmed := func() (at int64) {
		c.ask(d.cfg.Number, func(d *Driver) { at = d.voters[c.servers[3].driver.cfg.Store.Server()] })
		return at
	}
	first := confirmed()
	c.until("the witness has confirmed the leader long after that", func() bool { return confirmed() > first+3*int64(d.callTimeout()) })
	c.ask(d.cfg.Number, func(d *Driver) {
		if !d.responds(c.servers[3].driver.cfg.Store.Server()) {
			t.Error("the witness is said not to answer")
		}
	})
}

// TestWitnessIsAskedBeforeItCountsAsSilent: a leader that has not heard a live witness for long, since it was kept from running itself, asks it before it refuses
// to remove a replica for want of a majority. A dead witness is silent, and the refusal says what applies to the command.
func TestWitnessIsAskedBeforeItCountsAsSilent(t *testing.T) {
	c := newCluster(t, DefaultTiming, 3, 1, 2, 3)
	c.start(1, 2, 3)
	c.serve(1, 2)
	c.leadsNot(3)
	leader := c.leader()
	witness := c.servers[3].driver.cfg.Store.Server()
	forget := func() {
		c.ask(leader, func(d *Driver) {
			delete(d.voters, witness)
			d.acceded = 0
			d.lookAt = Now() + int64(d.callTimeout()/3)
		})
	}
	forget()
	if err := c.client(leader).Remove(t.Context(), 3-leader, false); err != nil {
		t.Fatalf("one of a pair with a live witness: %v", err)
	}
	place := c.servers[3-leader].driver.cfg
	if err := c.client(leader).Add(t.Context(), place.Number, place.Address, false); err != nil {
		t.Fatal(err)
	}
	c.until("the pair is whole again", func() bool { return c.serving(1, 2) && len(c.servers[leader].driver.fsm.get().View.Members) == 2 })
	c.kill(3)
	c.until("the witness is missed", func() (missed bool) {
		leader = c.leader()
		c.ask(leader, func(d *Driver) { missed = !d.responds(witness) })
		return missed
	})
	if err := c.client(leader).Remove(t.Context(), 3-leader, false); err == nil || !strings.Contains(err.Error(), "start or remove 3 first") {
		t.Errorf("one of a pair with a dead witness: %v", err)
	}
	err := c.client(leader).Replace(t.Context(), 3-leader, "127.0.0.1:1")
	if err == nil || !strings.Contains(err.Error(), "start or remove 3 first") || strings.Contains(err.Error(), "force") {
		t.Errorf("to replace one of a pair with a dead witness: %v", err)
	}
}

// TestNewLeaderDoesNotSlanderTheWitness: in the moment after an election nobody has been asked yet.
func TestNewLeaderDoesNotSlanderTheWitness(t *testing.T) {
	c := newCluster(t, DefaultTiming, 3, 1, 2, 3)
	c.start(1, 2, 3)
	c.serve(1, 2)
	c.leadsNot(3)
	for acceded, want := range map[int64]string{Now() + int64(time.Hour): "it has not answered the new leader yet", 0: "it does not answer"} {
		c.ask(c.leader(), func(d *Driver) {
			before, heard := d.acceded, d.voters
			d.acceded, d.voters = acceded, map[string]int64{}
			s := d.status()
			d.acceded, d.voters = before, heard
			if slot, _ := s.Slot(3); slot.Why != want {
				t.Errorf("the leader says of the witness %q, want %q", slot.Why, want)
			}
		})
	}
}

// TestKeptOutIsLogged: once, when it lasts.
func TestKeptOutIsLogged(t *testing.T) {
	var out strings.Builder
	d := &Driver{log: zerolog.New(&out), timing: DefaultTiming, holder: NewHolder(DefaultTiming, "1-a", Member{Number: 1, Incarnation: 10})}
	for now := int64(0); now < int64(time.Minute); now += int64(DefaultTiming.Heartbeat) {
		why := "it was started with -I 2m"
		if now < int64(time.Second) {
			why = "not in the view yet"
		}
		d.keptOut(now, why)
	}
	if lines := strings.Count(out.String(), "\n"); lines != 1 || !strings.Contains(out.String(), "-I 2m") {
		t.Errorf("%d lines:\n%s", lines, &out)
	}
}

// TestFourReplicasNeedNoRounds: what TestManyVotersNeedNoRounds says of Leader and Holder, of processes.
func TestFourReplicasNeedNoRounds(t *testing.T) {
	c := newCluster(t, DefaultTiming, 0, 1, 2, 3, 4)
	c.start(1, 2, 3, 4)
	c.serve(1, 2, 3, 4)
	var leader uint8
	var round, renewed uint64
	leases := map[uint8]int64{}
	c.until("the leases of all are renewed ten times without a round", func() bool {
		l, now := c.leader(), uint64(0)
		d := c.servers[l].driver
		d.do(func() { now = d.leader.round })
		if l != leader || now != round {
			leader, round, renewed = l, now, 0
		}
		all := true
		for n, s := range c.servers {
			all = all && s.host.lease() > leases[n]
		}
		if all {
			renewed++
			for n, s := range c.servers {
				leases[n] = s.host.lease()
			}
		}
		return renewed > 10
	})
}
