package views

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// ask looks at the state of a driver.
func (c *cluster) ask(n uint8, f func(d *Driver)) {
	c.t.Helper()
	d := c.servers[n].driver
	if err := d.ask(c.t.Context(), func() { f(d) }); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) term(n uint8) uint64 { return c.servers[n].driver.raft.CurrentTerm() }

// third is the one that is neither of two, in a group of three.
func third(a, b uint8) uint8 { return 6 - a - b }

// TestWhoAloneHasLostTheLeaderDoesNotDeposeIt: a follower and the leader do not reach each other, and everybody else does. The follower is not in the
// view then, and the group goes on under the same leader, in the same term, however often the follower asks; also when raft itself has become a candidate there.
func TestWhoAloneHasLostTheLeaderDoesNotDeposeIt(t *testing.T) {
	for name, how := range map[string]failure{"connections break": lineCut, "nothing arrives": lineMute} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, DefaultTiming, 0, 1, 2, 3)
			c.start(1, 2, 3)
			c.serve(1, 2, 3)
			leader := c.leader()
			follower := c.others(leader)[0]
			other := third(leader, follower)
			term := c.term(leader)
			c.network.set(leader, follower, how)
			c.serve(leader, other)
			c.until("the follower has asked four times, and raft is a candidate there", func() bool {
				failures := 0
				c.ask(follower, func(d *Driver) { failures = d.elector.failures })
				return failures >= 4 && c.servers[follower].driver.raft.State() == raft.Candidate
			})
			if !c.serving(leader, other) {
				t.Error("the others do not serve")
			}
			c.network.set(leader, follower, lineWhole)
			c.serve(1, 2, 3)
			if now, is := c.leader(), c.term(leader); now != leader || is != term {
				t.Errorf("server %d leads in term %d, not %d in term %d", now, is, leader, term)
			}
		})
	}
}

// TestDeafReplicaIsRemoved: its heartbeats would still arrive at the leader, though it could not serve.
func TestDeafReplicaIsRemoved(t *testing.T) {
	c := newCluster(t, DefaultTiming, 0, 1, 2, 3)
	c.patience = time.Hour // raft would notice in some seconds
	c.start(1, 2, 3)
	c.serve(1, 2, 3)
	leader := c.leader()
	deaf := c.others(leader)[0]
	for _, n := range c.others(deaf) {
		how := lineDeafLow
		if deaf > n {
			how = lineDeafHigh
		}
		c.network.set(deaf, n, how)
	}
	t.Log("view without it after", c.serve(c.others(deaf)...))
	for _, n := range c.others(deaf) {
		c.network.set(deaf, n, lineWhole)
	}
	c.serve(1, 2, 3)
}

// TestLeaderThatHangsIsReplaced: no connection breaks, and nobody is answered.
func TestLeaderThatHangsIsReplaced(t *testing.T) {
	c := newCluster(t, DefaultTiming, 0, 1, 2, 3)
	c.patience = time.Hour
	c.start(1, 2, 3)
	c.serve(1, 2, 3)
	leader := c.leader()
	others := c.others(leader)
	for _, n := range others {
		c.network.set(leader, n, lineMute)
	}
	t.Log("view without the leader after", c.serve(others...))
	for _, n := range others {
		c.network.set(leader, n, lineWhole)
	}
	c.serve(1, 2, 3)
}

// TestElectionsDoNotWaitForRaft: with timeouts of raft that are longer than any test, a group is formed, survives its leaders, and comes back when all
// have been stopped.
func TestElectionsDoNotWaitForRaft(t *testing.T) {
	for name, witness := range map[string]uint8{"three replicas": 0, "a pair and a witness": 3} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, DefaultTiming, witness, 1, 2, 3)
			c.patience = time.Hour
			c.start(1, 2, 3)
			c.serve(c.others(0)...)
			for range 3 {
				leader := c.leader()
				c.kill(leader)
				t.Log("view without the leader after", c.serve(c.others(leader)...))
				c.start(leader)
				c.serve(c.others(0)...)
			}
			for n := range c.servers {
				c.kill(n)
			}
			c.start(1, 2, 3)
			t.Log("all have been started again, and serve after", c.serve(c.others(0)...))
		})
	}
}

// TestCandidateStandsAgain: an election is lost, and raft stays a candidate for an hour. When there is a majority again, the server stands all the same; the
// other one cannot, for it lacks what has been committed meanwhile.
func TestCandidateStandsAgain(t *testing.T) {
	c := newCluster(t, DefaultTiming, 3, 1, 2, 3)
	c.patience = time.Hour
	c.start(1, 2, 3)
	c.serve(1, 2)
	c.kill(3)
	c.until("a replica leads", func() bool { return c.leader() != 3 })
	c.place(t, 4, false)
	if err := c.client(1).Add(testContext(t), 4, c.address(4), false); err != nil {
		t.Fatal(err)
	}
	leader := c.leader()
	c.kill(leader)
	left := c.servers[third(leader, 3)].driver
	left.transport.timeoutNow()
	c.until("it has lost the election, and asks nobody for votes any more", func() bool {
		failures := 0
		c.ask(left.cfg.Number, func(d *Driver) { failures = d.elector.failures })
		return failures >= 4 && left.raft.State() == raft.Candidate
	})
	c.start(3)
	c.until("it leads", func() bool { return c.leader() == left.cfg.Number })
}
