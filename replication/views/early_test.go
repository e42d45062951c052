package views

import "testing"

// TestHeartbeatsBeforeTheReignWaitForIt: voters learn whom they have elected before its reign begins. Were they told so, and to come again, their leases might run out.
func TestHeartbeatsBeforeTheReignWaitForIt(t *testing.T) {
	c := newCluster(t, DefaultTiming, 0, 1)
	c.start(1)
	c.serve(1)
	d := c.servers[1].driver
	beat := func(sent int64, answers *[]Answer) {
		d.arrives(Heartbeat{From: Member{Number: 2, Incarnation: 7}, Server: "2-x", Sent: sent}, func(a Answer) { *answers = append(*answers, a) })
	}
	var first, second, third []Answer
	d.do(func() {
		reign, term := d.reign, d.term
		d.reign = 0
		d.leader.Deposed()
		beat(1, &first)
		if len(first) != 0 {
			t.Errorf("before the reign: %+v", first)
		}
		beat(2, &second)
		if len(first) != 1 || first[0].Sent != 1 || first[0].To.Number != 2 || len(second) != 0 {
			t.Errorf("when the next one has come: %+v and %+v", first, second)
		}
		d.rule(reign, term)
	})
	if want := "the group has no replica 2: add it first (hermesd group add)"; len(second) != 1 || second[0].Sent != 2 || second[0].Why != want {
		t.Errorf("when the reign has begun: %+v, want %q", second, want)
	}
	c.serve(1)

	d.do(func() {
		reign, term := d.reign, d.term
		d.reign = 0
		d.leader.Deposed()
		beat(3, &third)
		d.led(false)
		if len(third) != 1 || third[0].Sent != 3 || third[0].Lease != 0 || third[0].Why == "" || len(d.early) != 0 {
			t.Errorf("when there is to be no reign: %+v; %d wait", third, len(d.early))
		}
		d.rule(reign, term)
	})
	c.serve(1)
	if len(first) != 1 || len(second) != 1 || len(third) != 1 {
		t.Errorf("answers: %d, %d, %d", len(first), len(second), len(third))
	}
}
