package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Shape is a group: how many replicas hold data, and whether a witness votes with them. The witness has the number after theirs.
type Shape struct {
	Replicas int
	Witness  bool
	Tuned    bool // the timing for machines that run nothing else
}

// ParseShape reads "3", "5t" (tuned) or "2w" (with a witness).
func ParseShape(text string) (Shape, error) {
	digits := strings.TrimRight(text, "wt")
	n, err := strconv.Atoi(digits)
	s := Shape{Replicas: n, Witness: strings.Contains(text[len(digits):], "w"), Tuned: strings.Contains(text[len(digits):], "t")}
	if err != nil || n < 2 || n > maxReplicas || s.votes() < 3 {
		return Shape{}, fmt.Errorf("group %q: give 3 to %d replicas, or 2 to %d and w (a witness); t behind it: with tuned timing", text, maxReplicas, maxReplicas-1)
	}
	return s, nil
}

// maxReplicas is the largest group.
const maxReplicas = 5

func (s Shape) String() string {
	text := strconv.Itoa(s.Replicas)
	if s.Witness {
		text += "w"
	}
	if s.Tuned {
		text += "t"
	}
	return text
}

func (s Shape) votes() int {
	if s.Witness {
		return s.Replicas + 1
	}
	return s.Replicas
}

// tolerates is how many may fail at a time so that the others go on.
func (s Shape) tolerates() int { return min((s.votes()-1)/2, s.Replicas-1) }

// Kind is a kind of fault.
type Kind string

const (
	Kill        Kind = "kill"         // SIGKILL, and started again
	KillLeader  Kind = "kill-leader"  // the same, of the control plane's leader
	KillTwo     Kind = "kill-two"     // two at a time, in groups that go on
	KillMost    Kind = "kill-most"    // so many that the rest is no majority and waits for them
	KillWitness Kind = "kill-witness" // the witness
	RestartLoop Kind = "restart-loop" // killed again and again, before it serves or soon after
	Pause       Kind = "pause"        // SIGSTOP for longer than the lease, SIGCONT
	PauseLeader Kind = "pause-leader" // the same, of the leader
	Blink       Kind = "blink"        // SIGSTOP for less than the lease
	Stop        Kind = "stop"         // SIGTERM, and started again
	Wipe        Kind = "wipe"         // killed, and started again with an empty --data-dir
	Cable       Kind = "cable"        // link of the replication network down
	CableLeader Kind = "cable-leader"
	Flap        Kind = "flap"      // link down and up, several times
	Deaf        Kind = "deaf"      // hears nobody, is heard
	Mute        Kind = "mute"      // hears all, is not heard
	Partial     Kind = "partial"   // two that do not lead cannot hear each other
	PartialOne  Kind = "partial-1" // the same in one direction
	Loss        Kind = "loss"      // some per cent of the packets
	Slow        Kind = "slow"      // what is more than some kilobytes per second is dropped
	DiskFull    Kind = "disk-full" // under --data-dir
	DiskLeader  Kind = "disk-full-leader"
	DiskKill    Kind = "disk-full-kill" // the disk of one is full while another is killed, so that the group has to note that
	Grow        Kind = "grow"           // a new replica is added, and removed
)

// who says which replicas a kind strikes.
type who uint8

const (
	anyone    who = iota // any replica that holds data
	theLeader            // the control plane's leader, if it holds data; else anyone
	followers            // none of them leads
	witness
	nobody
)

// spec is what the schedule knows of a kind.
type spec struct {
	kind    Kind
	who     who
	victims int           // 0: see victims below
	least   time.Duration // the fault lasts from least to most
	most    time.Duration
	mild    bool // it takes nobody out of the group by rights, and so may come on top of another one
	fits    func(Shape) bool
}

const (
	short = 700 * time.Millisecond
	long  = 3 * time.Second
)

func always(Shape) bool { return true }

// specs are all kinds, in a fixed order.
var specs = []spec{
	{Kill, anyone, 1, 50 * time.Millisecond, long, false, always},
	{KillLeader, theLeader, 1, 50 * time.Millisecond, long, false, always},
	{KillTwo, anyone, 2, short, long, false, func(s Shape) bool { return s.tolerates() >= 2 }},
	{KillMost, anyone, 2, short, long, false, func(s Shape) bool { return s.Replicas == 3 && !s.Witness }},
	{KillWitness, witness, 1, short, long, false, func(s Shape) bool { return s.Witness }},
	{RestartLoop, anyone, 1, 2 * time.Second, long, false, always},
	{Pause, anyone, 1, short, long, false, always},
	{PauseLeader, theLeader, 1, short, long, false, always},
	{Blink, anyone, 1, 30 * time.Millisecond, 150 * time.Millisecond, true, always},
	{Stop, anyone, 1, 50 * time.Millisecond, long, false, always},
	{Wipe, anyone, 1, 50 * time.Millisecond, long, false, always},
	{Cable, anyone, 1, short, long, false, always},
	{CableLeader, theLeader, 1, short, long, false, always},
	{Flap, anyone, 1, long, long, false, always},
	{Deaf, anyone, 1, short, long, false, always},
	{Mute, anyone, 1, short, long, false, always},
	{Partial, followers, 2, 2 * time.Second, long, false, always},
	{PartialOne, followers, 2, 2 * time.Second, long, false, always},
	{Loss, anyone, 1, 2 * time.Second, long, true, always},
	{Slow, anyone, 1, 2 * time.Second, long, true, always},
	{DiskFull, anyone, 1, short, long, false, always},
	{DiskLeader, theLeader, 1, short, long, false, always},
	{DiskKill, anyone, 2, short, long, false, func(s Shape) bool { return s.Replicas >= 3 }},
	{Grow, nobody, 0, short, short, false, func(s Shape) bool { return s.votes() == 3 }},
}

// ParseKinds reads kinds separated by commas; empty: all.
func ParseKinds(text string) ([]Kind, error) {
	var kinds []Kind
	if text == "" {
		return nil, nil
	}
	for name := range strings.SplitSeq(text, ",") {
		if !slices.ContainsFunc(specs, func(s spec) bool { return s.kind == Kind(name) }) {
			return nil, fmt.Errorf("fault %q: there are %v", name, allKinds())
		}
		kinds = append(kinds, Kind(name))
	}
	return kinds, nil
}

func allKinds() (all []Kind) {
	for _, s := range specs {
		all = append(all, s.kind)
	}
	return all
}

// Fault is one that is to come.
type Fault struct {
	Kind Kind
	// Victims are numbers of replicas. Those of faults that strike the leader, or followers, are chosen anew, by Aim, when it is
	// known who that is.
	Victims []int
	After   time.Duration // it begins so long after the first fault of its episode
	Lasts   time.Duration
	Level   int // of loss: per cent; of slow: kilobytes per second
	who     who
}

func (f Fault) String() string {
	text := fmt.Sprintf("%s %v for %v", f.Kind, f.Victims, f.Lasts.Round(10*time.Millisecond))
	if f.Level > 0 {
		text += fmt.Sprintf(" (%d)", f.Level)
	}
	return strings.ReplaceAll(strings.ReplaceAll(text, "[", ""), "]", "")
}

// Episode is one or two faults, then healing.
type Episode struct {
	Number int
	Faults []Fault
}

// Schedule draws episodes. It is a function of its seed.
type Schedule struct {
	shape  Shape
	random *rand.Rand
	specs  []spec // those that fit
	deck   []spec // of specs, those that have not come since it was last shuffled
	number int
}

// NewSchedule returns the schedule of a seed. kinds: only these; none: all that fit the shape.
func NewSchedule(seed uint64, shape Shape, kinds []Kind) (*Schedule, error) {
	s := &Schedule{shape: shape, random: rand.New(rand.NewPCG(seed, 0xc4a05))}
	for _, sp := range specs {
		if sp.fits(shape) && (len(kinds) == 0 || slices.Contains(kinds, sp.kind)) {
			s.specs = append(s.specs, sp)
		}
	}
	if len(s.specs) == 0 {
		return nil, fmt.Errorf("none of the faults %v is for a group %v", kinds, shape)
	}
	return s, nil
}

// secondShare is how many of a hundred episodes have a second fault, where there is one.
const secondShare = 35

// Next draws an episode. Every kind comes once before one comes again.
func (s *Schedule) Next() Episode {
	if len(s.deck) == 0 {
		s.deck = slices.Clone(s.specs)
		s.random.Shuffle(len(s.deck), func(i, j int) { s.deck[i], s.deck[j] = s.deck[j], s.deck[i] })
	}
	first := s.deck[0]
	s.deck = s.deck[1:]
	s.number++
	e := Episode{Number: s.number, Faults: []Fault{s.draw(first, nil)}}
	if s.random.IntN(100) < secondShare {
		if second, ok := s.second(first, e.Faults[0].Victims); ok {
			e.Faults = append(e.Faults, second)
		}
	}
	return e
}

// second draws a fault that strikes others while the first lasts: a mild one, or, where the group goes on without two replicas, any that takes out
// one.
func (s *Schedule) second(first spec, taken []int) (Fault, bool) {
	if first.kind == Grow || first.kind == KillMost || first.kind == DiskKill || len(taken) >= s.shape.Replicas {
		return Fault{}, false
	}
	var choice []spec
	for _, sp := range s.specs {
		if sp.who == anyone && sp.victims == 1 && (sp.mild || s.shape.tolerates() >= 2 && first.victims == 1) {
			choice = append(choice, sp)
		}
	}
	if len(choice) == 0 {
		return Fault{}, false
	}
	f := s.draw(choice[s.random.IntN(len(choice))], taken)
	f.After = time.Duration(s.random.Int64N(int64(500 * time.Millisecond)))
	return f, true
}

// draw draws a fault of a kind that strikes none of those taken.
func (s *Schedule) draw(sp spec, taken []int) Fault {
	f := Fault{Kind: sp.kind, who: sp.who, Lasts: sp.least + time.Duration(s.random.Int64N(int64(sp.most-sp.least)+1))}
	switch sp.who {
	case witness:
		f.Victims = []int{s.shape.Replicas + 1}
	case nobody:
	default:
		for _, n := range s.random.Perm(s.shape.Replicas) {
			if len(f.Victims) < sp.victims && !slices.Contains(taken, n+1) {
				f.Victims = append(f.Victims, n+1)
			}
		}
	}
	switch sp.kind {
	case Loss:
		f.Level = 1 + s.random.IntN(5)
	case Slow:
		f.Level = 32 << s.random.IntN(4)
	}
	return f
}

// Aim chooses the victims of an episode's faults anew where they depend on who leads, without striking one replica twice. leader is 0 if
// nobody leads.
func (e *Episode) Aim(leader int, shape Shape) {
	for i := range e.Faults {
		f := &e.Faults[i]
		switch {
		case f.who == theLeader && leader >= 1 && leader <= shape.Replicas:
			e.swap(f, 0, leader)
		case f.who == followers:
			for j, v := range f.Victims {
				if v != leader {
					continue
				}
				for other := 1; other <= shape.Replicas; other++ {
					if other != leader && !slices.Contains(f.Victims, other) {
						e.swap(f, j, other)
						break
					}
				}
			}
		}
	}
}

// swap gives f another victim. Whoever had that one gets the old one.
func (e *Episode) swap(f *Fault, at, victim int) {
	old := f.Victims[at]
	for i := range e.Faults {
		for j, v := range e.Faults[i].Victims {
			if v == victim {
				e.Faults[i].Victims[j] = old
			}
		}
	}
	f.Victims[at] = victim
}

// Victims are all replicas that an episode strikes.
func (e *Episode) Victims() (all []int) {
	for _, f := range e.Faults {
		all = append(all, f.Victims...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
