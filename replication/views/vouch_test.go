package views

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// others are the names of all but the first of n voters, the leader.
func others(n int) (names []string) {
	for i := 2; i <= n; i++ {
		names = append(names, serverOf(uint8(i)))
	}
	return names
}

// few is what raft says of a heartbeat of another voter to a leader of three.
var few = Mandate{Others: others(3), Voter: true, Leads: true}

// granted are the replicas that the leader has just given one.
func (s *stage) granted() (numbers []uint8) {
	for _, a := range s.l.Take().Answers {
		if a.Lease != 0 {
			numbers = append(numbers, a.To.Number)
		}
	}
	return numbers
}

func (s *stage) beat(n uint8, m Mandate, term uint64, echo Echo) Heartbeat {
	b := s.sent[n]
	b.Sent, b.Term, b.Echo = s.now, term, echo
	s.l.Heartbeat(s.now, b, m)
	return b
}

func TestHeartbeatOfOneOfThreeVotersNeedsNoRound(t *testing.T) {
	for name, c := range map[string]struct {
		mandate Mandate
		term    uint64
		want    bool
	}{
		"of the leader's term":                        {few, 5, true},
		"of an earlier term":                          {few, 4, true},
		"of a later term":                             {few, 6, false},
		"of two voters":                               {Mandate{Others: others(2), Voter: true, Leads: true}, 5, true},
		"of four voters":                              {Mandate{Others: others(4), Voter: true, Leads: true}, 5, false},
		"of who is no voter":                          {Mandate{Others: others(3), Leads: true}, 5, false},
		"of the leader itself":                        {Mandate{Others: others(3), Own: true, Leads: true}, 5, false},
		"to a server that does not lead in that term": {Mandate{Others: others(3), Voter: true}, 5, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, 3)
			s.l.Elected(s.now, s.g, 5)
			s.l.Take()
			s.beat(2, c.mandate, c.term, Echo{})
			if got := s.granted(); (len(got) == 1) != c.want {
				t.Errorf("leases for %v at once", got)
			}
			if waits := len(s.l.pending) == 1; waits == c.want {
				t.Errorf("it waits for a round: %v", waits)
			}
		})
	}
}

func TestOwnHeartbeatIsAnsweredByWhatIsSentBackLater(t *testing.T) {
	s := newStage(t, 3)
	s.l.Elected(s.now, s.g, 5)
	s.beat(2, few, 5, Echo{})
	early := s.l.Take().Answers[0].Echo
	s.now += ms
	s.beat(1, Mandate{Others: others(3), Own: true}, 5, Echo{})
	s.beat(3, few, 5, Echo{})
	late := s.l.Take().Answers[0].Echo
	s.now += 60 * ms
	for _, c := range []struct {
		what string
		echo Echo
	}{{"an answer from before", early}, {"an answer of another leader", Echo{Term: 4, Stamp: late.Stamp}}} {
		s.beat(2, few, 5, c.echo)
		if got := s.granted(); len(got) != 1 || got[0] != 2 {
			t.Errorf("by the echo of %s: leases for %v", c.what, got)
		}
	}
	s.beat(3, few, 6, late) // it knows of a later term
	if got := s.granted(); len(got) != 0 {
		t.Errorf("by an echo in a later term: leases for %v", got)
	}
	s.beat(2, few, 5, late)
	if got := s.granted(); len(got) != 2 || got[0] != 1 {
		t.Errorf("by the echo of a later answer: leases for %v, not for 1 and 2", got)
	}
}

func TestOwnHeartbeatThatIsNotSentBackNeedsARound(t *testing.T) {
	s := newStage(t, 3)
	s.l.Elected(s.now, s.g, 5)
	s.l.Take()
	s.beat(2, few, 5, Echo{})
	s.beat(1, Mandate{Others: others(3), Own: true}, 5, Echo{})
	began := s.now
	for s.l.Take().Round == 0 {
		if s.now-began > int64(2*DefaultTiming.Heartbeat) {
			t.Fatal("no round begins")
		}
		s.now = s.l.Wake()
		s.l.Tick(s.now)
	}
	if s.now-began < int64(DefaultTiming.Heartbeat) {
		t.Errorf("a round begins after %d ms, before anything could have been sent back", (s.now-began)/ms)
	}
	s.l.RoundDone(s.now, s.l.round, true)
	if got := s.granted(); len(got) != 1 || got[0] != 1 {
		t.Errorf("after the round: leases for %v", got)
	}
	s.now += int64(2 * DefaultTiming.Heartbeat)
	s.beat(1, Mandate{Others: others(3), Own: true}, 5, Echo{})
	s.l.Tick(s.l.roundDue())
	if s.l.Take().Round == 0 {
		t.Error("when nobody has vouched for long: no round at once")
	}
}

// TestHeartbeatsComeTogether: whenever a replica begins, its second heartbeat comes with those of the others.
func TestHeartbeatsComeTogether(t *testing.T) {
	s := newStage(t, 3)
	s.l.Elected(s.now, s.g, 5)
	s.l.Take()
	interval := int64(DefaultTiming.Heartbeat)
	holders := map[uint8]*Holder{2: NewHolder(DefaultTiming, serverOf(2), s.sent[2].From), 3: NewHolder(DefaultTiming, serverOf(3), s.sent[3].From)}
	beat := func(n uint8) {
		b := holders[n].Beat(s.now, s.sent[n].Status, 0)
		b.Term = 5
		s.l.Heartbeat(s.now, b, few)
		for _, a := range s.l.Take().Answers {
			holders[n].Answer(s.now, a)
		}
	}
	beat(2)
	s.now += interval / 3
	beat(3)
	if two, three := holders[2].Due(), holders[3].Due(); two != three || two != s.now-interval/3+interval {
		t.Errorf("the next are due after %d and %d ms, not both after %d", (two-s.now)/ms, (three-s.now)/ms, (interval-interval/3)/ms)
	}
	s.now += interval - interval/3
	beat(2)
	s.now += ms / 2
	beat(3)
	if two, three := holders[2].Due(), holders[3].Due(); two != three || two != s.now-ms/2+interval {
		t.Errorf("the next are due after %d and %d ms, not both an interval after the first", (two-s.now)/ms, (three-s.now)/ms)
	}
}

// TestLeaderRenewsNobodyWhomItHasProposedToRemove: not even one that is heard again. A later leader may have found the proposal in its log, and committed it.
func TestLeaderRenewsNobodyWhomItHasProposedToRemove(t *testing.T) {
	s := newStage(t, 3)
	s.l.Elected(s.now, s.g, 5)
	s.l.Take()
	for range 20 {
		s.now += int64(DefaultTiming.Heartbeat) / 2
		s.beat(1, few, 5, Echo{})
		s.beat(2, few, 5, Echo{})
		if o := s.l.Take(); o.Propose != nil {
			if o.Propose.View.Has(s.sent[3].From) {
				t.Fatalf("%v is proposed", o.Propose.View)
			}
			s.beat(3, few, 5, Echo{})
			if got := s.granted(); len(got) != 0 {
				t.Errorf("leases for %v", got)
			}
			return
		}
	}
	t.Error("nothing is proposed")
}

// together has the replicas that are named send heartbeats at one time, 1 being the leader's own, and returns the answers with a lease.
func (s *stage) together(voters int, change func(n uint8, b *Heartbeat, m *Mandate), numbers ...uint8) map[uint8]Answer {
	leases := map[uint8]Answer{}
	for _, n := range numbers {
		m := Mandate{Others: others(voters), Voter: n != 1, Own: n == 1, Leads: true}
		b := s.sent[n]
		b.Sent, b.Term = s.now, 5
		change(n, &b, &m)
		s.now += ms / 10
		s.l.Heartbeat(s.now, b, m)
	}
	for _, a := range s.l.Take().Answers {
		if a.Lease != 0 {
			leases[a.To.Number] = a
		}
	}
	return leases
}

func TestHeartbeatsOfManyVotersAnswerEachOther(t *testing.T) {
	interval := int64(DefaultTiming.Heartbeat)
	for _, c := range []struct {
		name   string
		voters int
		change func(n uint8, b *Heartbeat, m *Mandate) // of the second heartbeats, which give back the answer to the first
		want   []uint8
	}{
		{"all give the answer back", 5, func(uint8, *Heartbeat, *Mandate) {}, []uint8{2, 3, 4, 5}},
		{"one of five does, and so supports the others, but not itself", 5, only(3), []uint8{2, 4, 5}},
		{"one of seven is too few", 7, only(3), nil},
		{"two of seven", 7, only(3, 4), []uint8{2, 5, 6, 7}},
		{"of an answer from before the heartbeat", 5, func(_ uint8, b *Heartbeat, _ *Mandate) { b.Echo.Stamp -= interval }, nil},
		{"of another leader", 5, func(_ uint8, b *Heartbeat, _ *Mandate) { b.Echo.Term = 4 }, nil},
		{"by those who know of a later term", 5, func(_ uint8, b *Heartbeat, _ *Mandate) { b.Term = 6 }, nil},
		{"by servers that do not vote", 5, func(n uint8, _ *Heartbeat, m *Mandate) {
			m.Others, m.Voter = []string{"a", "b", "c", "d"}, false
		}, nil},
		{"to a server that does not lead in that term", 5, func(_ uint8, _ *Heartbeat, m *Mandate) { m.Leads = false }, nil},
		{"to a server that has ceased to lead when the last one comes", 5, func(n uint8, _ *Heartbeat, m *Mandate) { m.Leads = n != 5 }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t, c.voters)
			s.l.Elected(s.now, s.g, 5)
			s.l.Take()
			var all []uint8
			for n := range uint8(c.voters) {
				all = append(all, n+1)
			}
			first := s.now
			s.l.rounds = first - interval // there have been others
			if early := s.together(c.voters, func(uint8, *Heartbeat, *Mandate) {}, all...); len(early) != 0 {
				t.Errorf("leases for %v before a round", early)
			}
			s.now += int64(DefaultTiming.gather())
			s.l.Tick(s.now)
			s.l.RoundDone(s.now, s.l.Take().Round, true)
			echo := s.l.Take().Answers[0].Echo
			s.now = first + interval
			got := s.together(c.voters, func(n uint8, b *Heartbeat, m *Mandate) {
				b.Echo = echo
				c.change(n, b, m)
			}, all...)
			for _, n := range c.want {
				a, ok := got[n]
				delete(got, n)
				echo = a.Echo
				since := first + int64(n-1)*ms/10
				if !ok || a.Since != since {
					t.Errorf("replica %d has a lease: %v, from %d ms after its first heartbeat", n, ok, (a.Since-since)/ms)
				}
				if a.After <= 0 || a.After > interval {
					t.Errorf("replica %d is to send the next heartbeat after %d ms", n, a.After/ms)
				}
			}
			if len(got) != 0 {
				t.Errorf("leases for %v", got)
			}
			if len(c.want) == c.voters-1 { // the leader's own waits until others give back an answer from after it
				s.now += 2 * int64(DefaultTiming.gather())
				s.l.Tick(s.now)
				if s.l.Take().Round != 0 {
					t.Error("a round begins all the same")
				}
				s.now = first + 2*interval
				own, ok := s.together(c.voters, func(_ uint8, b *Heartbeat, _ *Mandate) { b.Echo = echo }, all...)[1]
				if ok = ok && own.Since == first+interval; !ok {
					t.Errorf("the leader's own second heartbeat is answered by %+v", own)
				}
				return
			}
			s.now += 2 * interval
			s.l.Tick(s.now)
			if s.l.Take().Round == 0 {
				t.Error("no round begins for the others")
			}
		})
	}
}

// TestManyVotersNeedNoRounds: whenever each replica begins, soon the heartbeats of all come together, once in an interval, and answer each other.
func TestManyVotersNeedNoRounds(t *testing.T) {
	interval := int64(DefaultTiming.Heartbeat)
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 0))
		voters := 4 + rng.IntN(4)
		s := newStage(t, voters)
		s.l.Elected(s.now, s.g, 5)
		holders := map[uint8]*Holder{}
		for i := range uint8(voters) {
			holders[i+1] = NewHolder(DefaultTiming, serverOf(i+1), s.sent[i+1].From)
			holders[i+1].due = s.now + rng.Int64N(2*interval)
		}
		rounds, beats := 0, 0
		var begun []int64
		end, settled := s.now+5000*ms, s.now+4000*ms
		for ; s.now < end; s.now += ms / 4 {
			beat := func(n uint8) {
				b := holders[n].Beat(s.now, s.sent[n].Status, 0)
				b.Term = 5
				s.l.Heartbeat(s.now, b, Mandate{Others: others(voters), Voter: n != 1, Own: n == 1, Leads: true})
			}
			for i := uint8(2); i <= uint8(voters); i++ {
				if s.now < holders[i].Due() {
					continue
				}
				if holders[1].Due()-s.now <= interval/2 { // as in Driver.arrives
					beat(1)
				}
				beat(i)
				if s.now >= settled {
					beats++
				}
			}
			if due := holders[1].Due(); s.now >= due && (!s.l.relies(s.now) || s.now >= due+interval/4) { // as in Driver.beat
				beat(1)
			}
			if s.now >= s.l.Wake() {
				s.l.Tick(s.now)
			}
			if len(begun) > 0 && s.now-begun[0] > ms {
				s.l.RoundDone(s.now, s.l.round, true)
				begun = begun[1:]
			}
			o := s.l.Take()
			if o.Round != 0 {
				begun = append(begun, s.now)
				if s.now >= settled {
					rounds++
				}
			}
			for _, a := range o.Answers {
				holders[a.To.Number].Answer(s.now, a)
			}
		}
		if most := (voters - 1) * 15; rounds > 0 || beats > most {
			t.Errorf("seed %d, %d voters: %d rounds and %d heartbeats in the last second, not 0 and at most %d", seed, voters, rounds, beats, most)
		}
	}
}

// only takes the echoes away from all others.
func only(numbers ...uint8) func(uint8, *Heartbeat, *Mandate) {
	return func(n uint8, b *Heartbeat, _ *Mandate) {
		if !slices.Contains(numbers, n) {
			b.Echo = Echo{}
		}
	}
}

// TestFirstRoundIsForAllWhoAreLeft: when the leader has been lost, the leases of all are old, and the next round is nearly an interval away.
func TestFirstRoundIsForAllWhoAreLeft(t *testing.T) {
	s := newStage(t, 5)
	s.l.Elected(s.now, s.g, 5)
	s.l.Take()
	s.together(5, func(uint8, *Heartbeat, *Mandate) {}, 1)
	s.l.Tick(s.now)
	s.now += ms
	s.together(5, func(uint8, *Heartbeat, *Mandate) {}, 2, 3, 4) // 5 has led before
	s.now += int64(DefaultTiming.gather())
	s.l.Tick(s.now)
	s.l.RoundDone(s.now, s.l.Take().Round, true)
	if got := s.granted(); !slices.Equal(got, []uint8{1, 2, 3, 4}) {
		t.Errorf("after the first round: leases for %v", got)
	}
}

// TestNoSecondRoundForWhatOneAnswers: a round that takes its time is not helped by another one.
func TestNoSecondRoundForWhatOneAnswers(t *testing.T) {
	interval := int64(DefaultTiming.Heartbeat)
	for name, begin := range map[string]func(*stage) (waits uint8){
		"an own heartbeat that nobody has sent back": func(s *stage) uint8 {
			s.l.vouched = s.now
			s.together(5, func(uint8, *Heartbeat, *Mandate) {}, 1)
			for s.l.roundBegins() == 0 {
				s.now += ms
				s.l.Tick(s.now)
			}
			return 1
		},
		"one that says nothing, when those of the others have answered each other": func(s *stage) uint8 {
			s.together(5, func(uint8, *Heartbeat, *Mandate) {}, 1, 2, 3, 4, 5)
			s.now += int64(DefaultTiming.gather())
			s.l.Tick(s.now)
			s.l.RoundDone(s.now, s.l.roundBegins(), true)
			echo := s.l.Take().Answers[0].Echo
			later := func(n uint8, b *Heartbeat, _ *Mandate) {
				if b.Echo = echo; n == 2 {
					b.Term = 6
				}
			}
			s.now += interval
			s.together(5, later, 1, 2)
			s.now += int64(DefaultTiming.gather())
			s.l.Tick(s.now)
			if s.l.roundBegins() == 0 {
				s.t.Fatal("no round begins")
			}
			if got := s.together(5, later, 3, 4, 5); len(got) == 0 {
				s.t.Fatal("the heartbeats of the others do not answer each other")
			}
			return 2
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, 5)
			s.l.Elected(s.now, s.g, 5)
			waits := begin(s)
			ticks := func() {
				for end := s.now + interval; s.now < end; s.now += ms {
					s.l.Tick(s.now)
					if s.l.roundBegins() != 0 {
						t.Fatal("another round begins")
					}
				}
			}
			ticks()
			s.l.RoundDone(s.now, s.l.round, true)
			if got := s.granted(); !slices.Contains(got, waits) {
				t.Errorf("after the round: leases for %v", got)
			}
			ticks()
		})
	}
}

// roundBegins is the number of the round that begins, or 0. Answers stay.
func (l *Leader) roundBegins() uint64 {
	round := l.out.Round
	l.out.Round = 0
	return round
}

// TestFirstHeartbeatHasNoneBefore: by a clock that has just begun, the zero moment would be one from which a lease may count.
func TestFirstHeartbeatHasNoneBefore(t *testing.T) {
	s := newStage(t, 5)
	s.now = 10 * ms
	s.l.Elected(s.now, s.g, 5)
	s.l.Take()
	all := func(n uint8, b *Heartbeat, _ *Mandate) { b.Echo = Echo{Term: 5, Stamp: s.now} }
	for n, a := range s.together(5, all, 1, 2, 3, 4, 5) {
		if n != 1 {
			t.Errorf("replica %d has a lease that counts from %d", n, a.Since)
		}
	}
}
