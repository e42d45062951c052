package main

import (
	"reflect"
	"slices"
	"testing"
)

func shape(t *testing.T, text string) Shape {
	t.Helper()
	s, err := ParseShape(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestParseShape(t *testing.T) {
	for text, want := range map[string]Shape{
		"3": {Replicas: 3}, "5t": {Replicas: 5, Tuned: true}, "2w": {Replicas: 2, Witness: true}, "2wt": {Replicas: 2, Witness: true, Tuned: true},
	} {
		got := shape(t, text)
		if got != want || got.String() != text {
			t.Errorf("%q is %+v (%v), want %+v", text, got, got, want)
		}
	}
	for _, text := range []string{"", "1", "2", "6", "3x", "w", "-3"} {
		if s, err := ParseShape(text); err == nil {
			t.Errorf("%q is accepted: %v", text, s)
		}
	}
}

func TestParseKinds(t *testing.T) {
	if kinds, err := ParseKinds("kill,cable"); err != nil || !slices.Equal(kinds, []Kind{Kill, Cable}) {
		t.Errorf("got %v, %v", kinds, err)
	}
	if _, err := ParseKinds("kill,earthquake"); err == nil {
		t.Error("a fault that does not exist is accepted")
	}
}

// TestScheduleIsAFunctionOfItsSeed: the same seed gives the same episodes, another one others.
func TestScheduleIsAFunctionOfItsSeed(t *testing.T) {
	draw := func(seed uint64) (all []Episode) {
		s, err := NewSchedule(seed, shape(t, "5"), nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			all = append(all, s.Next())
		}
		return all
	}
	if !reflect.DeepEqual(draw(1), draw(1)) {
		t.Error("a seed gives two schedules")
	}
	if reflect.DeepEqual(draw(1), draw(2)) {
		t.Error("two seeds give one schedule")
	}
}

// TestScheduleKeepsItsBounds: every kind that fits comes once before one comes again; no replica is struck twice; so many can go on
// without those that are taken out, but for faults that are meant to take the majority.
func TestScheduleKeepsItsBounds(t *testing.T) {
	for _, text := range []string{"3", "5", "2w", "3w", "4w"} {
		sh := shape(t, text)
		for seed := range uint64(50) {
			s, err := NewSchedule(seed, sh, nil)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[Kind]int{}
			for range len(s.specs) {
				e := s.Next()
				seen[e.Faults[0].Kind]++
				for leader := range sh.votes() + 1 {
					e := Episode{Faults: slices.Clone(e.Faults)}
					for i := range e.Faults {
						e.Faults[i].Victims = slices.Clone(e.Faults[i].Victims)
					}
					e.Aim(leader, sh)
					checkEpisode(t, e, leader, sh)
				}
			}
			for _, sp := range s.specs {
				if seen[sp.kind] != 1 {
					t.Errorf("group %v, seed %d: %s came %d times in a round", sh, seed, sp.kind, seen[sp.kind])
				}
			}
		}
	}
}

func checkEpisode(t *testing.T, e Episode, leader int, sh Shape) {
	t.Helper()
	struck, out := 0, 0
	for _, f := range e.Faults {
		sp := specs[slices.IndexFunc(specs, func(s spec) bool { return s.kind == f.Kind })]
		if len(f.Victims) != sp.victims || f.Lasts < sp.least || f.Lasts > sp.most {
			t.Errorf("group %v: %v: want %d victims, for %v to %v", sh, f, sp.victims, sp.least, sp.most)
		}
		struck += len(f.Victims)
		switch {
		case sp.mild || sp.who == witness || f.Kind == KillMost || f.Kind == DiskKill:
		case f.Kind == Partial || f.Kind == PartialOne:
			out++
		default:
			out += len(f.Victims)
		}
		if f.who == theLeader && leader >= 1 && leader <= sh.Replicas && f.Victims[0] != leader {
			t.Errorf("group %v: %v is not at the leader, %d", sh, f, leader)
		}
		if f.who == followers && sh.Replicas > 2 && slices.Contains(f.Victims, leader) {
			t.Errorf("group %v: %v strikes the leader, %d", sh, f, leader)
		}
	}
	if len(e.Victims()) != struck {
		t.Errorf("group %v, leader %d: %v: a replica is struck twice", sh, leader, e.Faults)
	}
	if out > sh.tolerates() {
		t.Errorf("group %v: %v takes out %d, it tolerates %d", sh, e.Faults, out, sh.tolerates())
	}
}

func TestScheduleOfFewKinds(t *testing.T) {
	s, err := NewSchedule(1, shape(t, "3"), []Kind{Loss, KillWitness})
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if e := s.Next(); e.Faults[0].Kind != Loss {
			t.Errorf("%v came", e.Faults)
		}
	}
	if _, err := NewSchedule(1, shape(t, "3"), []Kind{KillWitness}); err == nil {
		t.Error("a group without a witness gets a schedule of its deaths")
	}
}
