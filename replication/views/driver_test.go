package views

import (
	"strings"
	"testing"
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
