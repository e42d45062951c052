package views

import "testing"

// few is what raft says of a heartbeat of another voter to a leader of three.
var few = Mandate{Voters: 3, Voter: true, Leads: true}

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
		"of two voters":                               {Mandate{Voters: 2, Voter: true, Leads: true}, 5, true},
		"of four voters":                              {Mandate{Voters: 4, Voter: true, Leads: true}, 5, false},
		"of who is no voter":                          {Mandate{Voters: 3, Leads: true}, 5, false},
		"of the leader itself":                        {Mandate{Voters: 3, Voter: true, Own: true, Leads: true}, 5, false},
		"to a server that does not lead in that term": {Mandate{Voters: 3, Voter: true}, 5, false},
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
	s.beat(1, Mandate{Own: true}, 5, Echo{})
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
	s.beat(1, Mandate{Own: true}, 5, Echo{})
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
	s.beat(1, Mandate{Own: true}, 5, Echo{})
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
	holders := map[uint8]*Holder{2: NewHolder(DefaultTiming, "", s.sent[2].From), 3: NewHolder(DefaultTiming, "", s.sent[3].From)}
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
