package views

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// formed is a group of n replicas, h1:1 and so on, whose first view has the incarnation 10 of each.
func formed(t testing.TB, n int) Group {
	var g Group
	f := &Form{ID: "test"}
	v := &View{Epoch: 1, Generation: 1}
	for i := range n {
		number := uint8(i + 1)
		f.Slots = append(f.Slots, Slot{Number: number, Address: fmt.Sprintf("h%d:1", number)})
		v.Members = append(v.Members, Replica{Member{number, 10}, fmt.Sprintf("h%d:1", number), true})
	}
	for _, c := range []Command{{Form: f}, {After: 1, View: v}} {
		if err := g.Apply(c); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

func replica(number uint8, incarnation uint64, serving bool) Replica {
	return Replica{Member{number, incarnation}, fmt.Sprintf("h%d:1", number), serving}
}

func TestGroupRefuses(t *testing.T) {
	view := func(epoch, generation uint64, members ...Replica) Command {
		return Command{After: 2, View: &View{epoch, generation, members}}
	}
	one, two, three := replica(1, 10, true), replica(2, 10, true), replica(3, 10, true)
	for name, c := range map[string]struct {
		Command
		why string
	}{
		"an old command":               {Command{After: 1, View: &View{2, 1, []Replica{one}}}, "has changed meanwhile"},
		"nothing":                      {Command{After: 2}, "says nothing"},
		"a second formation":           {Command{After: 2, Form: &Form{ID: "x", Slots: []Slot{{Number: 1, Address: "h:1"}}}}, "formed already"},
		"a skipped epoch":              {view(3, 1, one, two), "epoch"},
		"a skipped generation":         {view(2, 3, one, two), "generation"},
		"a generation too soon":        {view(2, 2, replica(1, 11, true)), "after a view without members"},
		"nobody that goes on":          {view(2, 1, replica(2, 11, false)), "goes on serving"},
		"members in disorder":          {view(2, 1, two, one), "order"},
		"a strange member":             {view(2, 1, one, replica(4, 1, false)), "no place"},
		"a member elsewhere":           {view(2, 1, one, Replica{Member{2, 10}, "h9:1", true}), "no place"},
		"a step back":                  {view(2, 1, one, replica(2, 10, false), three), "go back"},
		"two lives at once":            {view(2, 1, one, replica(2, 11, false), three), "while"},
		"an address that is used":      {Command{After: 2, Set: &Slot{Number: 4, Address: "h1:1"}}, "is the address of replica 1"},
		"not an address":               {Command{After: 2, Set: &Slot{Number: 4, Address: "h4"}}, "host:port"},
		"number 64":                    {Command{After: 2, Set: &Slot{Number: 64, Address: "h4:1"}}, "1 to 63"},
		"a replica made a witness":     {Command{After: 2, Set: &Slot{Number: 1, Address: "h1:1", Witness: true}}, "witness"},
		"a member moved":               {Command{After: 2, Set: &Slot{Number: 1, Address: "h9:1"}}, "in the view with the address"},
		"a slot vacated unasked":       {Command{After: 2, Vacate: 1}, "not to be removed"},
		"a joiner that serves at once": {Command{After: 3, View: &View{3, 1, []Replica{one, replica(2, 11, true)}}}, "joins"},
		"an incarnation that returns":  {Command{After: 3, View: &View{3, 1, []Replica{one, replica(2, 10, false)}}}, "new incarnation"},
	} {
		t.Run(name, func(t *testing.T) {
			g := formed(t, 3)
			if c.After == 3 { // after replica 2 has left
				if err := g.Apply(view(2, 1, one, three)); err != nil {
					t.Fatal(err)
				}
			}
			before := g.Snapshot()
			if err := g.Apply(c.Command); err == nil || !strings.Contains(err.Error(), c.why) {
				t.Errorf("%v; it should speak of %q", err, c.why)
			}
			if !bytes.Equal(before, g.Snapshot()) {
				t.Error("a refused command has changed the group")
			}
		})
	}
}

func TestEarlierCopiesOfAGroupStay(t *testing.T) {
	g := formed(t, 3)
	before := g
	text := string(before.Snapshot())
	for _, c := range []Command{{After: 2, View: &View{2, 1, []Replica{replica(1, 10, true)}}}, {After: 3, Set: &Slot{Number: 2, Address: "h2:1", Removing: true}},
		{After: 4, Vacate: 2}} {
		if err := g.Apply(c); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := g.Slot(2); ok || string(before.Snapshot()) != text {
		t.Errorf("then %s, now %s", text, before.Snapshot())
	}
}

func TestSnapshotIsTheGroup(t *testing.T) {
	g := formed(t, 3)
	back, err := RestoreGroup(g.Snapshot())
	if err != nil || !reflect.DeepEqual(g, back) {
		t.Errorf("%v: %+v has become %+v", err, g, back)
	}
}

// FuzzDecode: whatever is in the log, a command is refused or leaves a group that can be written and read again.
func FuzzDecode(f *testing.F) {
	f.Add(Command{After: 2, View: &View{2, 1, []Replica{replica(1, 10, true), replica(4, 1, false)}}}.Encode())
	f.Add(Command{After: 2, Set: &Slot{Number: 4, Address: "h4:1", Witness: true}}.Encode())
	f.Add(Command{After: 2, Vacate: 200}.Encode())
	f.Add([]byte(`{"After":2,"View":{"Epoch":2,"Generation":1,"Members":[{"Number":255}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if g, err := RestoreGroup(b); err == nil {
			g.Slot(1)
		}
		c, err := DecodeCommand(b)
		if err != nil {
			return
		}
		if again, err := DecodeCommand(c.Encode()); err != nil || !bytes.Equal(again.Encode(), c.Encode()) {
			t.Errorf("%v: %q is read as %q", err, c.Encode(), again.Encode())
		}
		g := formed(t, 3)
		if g.Apply(c) != nil {
			return
		}
		if back, err := RestoreGroup(g.Snapshot()); err != nil || !bytes.Equal(back.Snapshot(), g.Snapshot()) {
			t.Errorf("%v: %s", err, g.Snapshot())
		}
	})
}
