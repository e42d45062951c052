package views

import (
	"slices"
	"testing"
)

// Of an attempt: who begins it, when it is in vain, and what follows then.

var (
	election = int64(DefaultTiming.Election)
	half     = election / 2
)

// begin has an elector ask the others.
func begin(t *testing.T, e *Elector, now int64, c Candidacy) (attempt uint64) {
	t.Helper()
	if !e.Wants(now) {
		t.Fatal("it does not want to ask yet")
	}
	attempt, ask, stand := e.Stand(now, c)
	if !ask || stand {
		t.Fatalf("it asks the others: %v; it stands: %v", ask, stand)
	}
	return attempt
}

// vain is an attempt that is refused by the only voter besides the lost leader.
func vain(t *testing.T, e *Elector, now int64, c Candidacy) {
	t.Helper()
	if _, stand := e.Told(now, begin(t, e, now, c), "c", PreVoteAnswer{}); stand {
		t.Fatal("it stands, though it was refused")
	}
}

// waits reports that an elector wants to ask at a time, and not before, as it says itself.
func waits(t *testing.T, e *Elector, now, until int64) {
	t.Helper()
	if at := e.Due(now); at != until || e.Wants(until-1) || !e.Wants(until) {
		t.Errorf("it asks in %d µs (then: %v, before: %v), want %d", (at-now)/1000, e.Wants(until), e.Wants(until-1), (until-now)/1000)
	}
}

// The others notice the loss at the same time; one of them is likely to have been elected when the next would ask.
func TestServersAskInTheirOrder(t *testing.T) {
	for rank := range 4 {
		e, now, c := doubtful(t)
		c.Rank = rank
		if rank > 0 {
			if _, ask, stand := e.Stand(now, c); ask || stand {
				t.Fatalf("rank %d: it does not wait for those before it", rank)
			}
			waits(t, e, now, now+int64(rank)*election/10)
			now += int64(rank) * election / 10
		}
		begin(t, e, now, c)
	}
}

// In each doubt, not in each attempt.
func TestServersAskInTheirOrderInEachDoubt(t *testing.T) {
	e, now, c := doubtful(t)
	c.Rank = 1
	e.Stand(now, c)
	now += election / 10
	vain(t, e, now, c)
	now = e.Due(now)
	vain(t, e, now, c) // at once: who comes first had its turn
	e.Heard(now)
	e.Broke()
	if _, ask, _ := e.Stand(now, c); ask {
		t.Error("it is lost anew, and does not wait for those before it")
	}
}

func TestAttemptsInVainComeLaterEachTime(t *testing.T) {
	e, now, c := doubtful(t)
	for _, halves := range []int64{1, 2, 4, 8, 16, 16, 16} {
		vain(t, e, now, c)
		waits(t, e, now, now+halves*half)
		now += halves * half
	}
}

// Two that have each been promised a vote which the other one needs do not ask again at the same time.
func TestAfterAttemptsInVainTheFirstAsksAgainFirst(t *testing.T) {
	for rank, want := range []int64{half, half + half/2, 2 * half} {
		e, now, c := doubtful(t)
		c.Rank = rank
		if rank > 0 {
			e.Stand(now, c)
			now = e.Due(now)
		}
		vain(t, e, now, c)
		waits(t, e, now, now+want)
	}
}

func TestUnansweredAttemptIsInVain(t *testing.T) {
	e, now, c := doubtful(t)
	attempt := begin(t, e, now, c)
	waits(t, e, now, now+election*3/2)
	now += election * 3 / 2
	if _, ask, stand := e.Stand(now, c); ask || stand {
		t.Fatal("it goes on")
	}
	waits(t, e, now, now+half)
	if _, stand := e.Told(now, attempt, "c", PreVoteAnswer{Yes: true}); stand {
		t.Error("it stands by an answer that has come too late")
	}
	now += half
	begin(t, e, now, c)
	if _, stand := e.Told(now, attempt, "c", PreVoteAnswer{Yes: true}); stand {
		t.Error("it stands by an answer to an earlier attempt")
	}
}

func TestNewDoubtBeginsWithoutWaiting(t *testing.T) {
	for name, over := range map[string]func(e *Elector, now int64){
		"the leader has answered": func(e *Elector, now int64) { e.Heard(now) },
		"another one leads":       func(e *Elector, now int64) { e.Follow(now, "c:1", false) },
		"this one has led": func(e *Elector, now int64) {
			e.Follow(now, "", true)
			e.Follow(now, "a:1", false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, now, c := doubtful(t)
			for range 3 {
				vain(t, e, now, c)
				now = e.Due(now)
			}
			vain(t, e, now, c)
			over(e, now)
			e.Sent(now)
			e.Broke()
			vain(t, e, now, c)
			waits(t, e, now, now+half)
		})
	}
}

func TestAttemptEndsWithTheDoubt(t *testing.T) {
	for name, over := range map[string]func(e *Elector, now int64){
		"the leader has answered": func(e *Elector, now int64) { e.Heard(now) },
		"another one leads":       func(e *Elector, now int64) { e.Follow(now, "c:1", false) },
		"this one leads":          func(e *Elector, now int64) { e.Follow(now, "", true) },
	} {
		t.Run(name, func(t *testing.T) {
			e, now, c := doubtful(t)
			attempt := begin(t, e, now, c)
			over(e, now)
			if _, stand := e.Told(now, attempt, "c", PreVoteAnswer{Yes: true}); stand {
				t.Error("it stands")
			}
		})
	}
}

// TestAttemptIsInVainWhenNoMajorityIsLeft: not before, and not later. The lost leader is not waited for, but its vote counts if it has come to itself.
func TestAttemptIsInVainWhenNoMajorityIsLeft(t *testing.T) {
	const (
		open   = "waits for the others"
		failed = "is in vain"
		stands = "stands"
	)
	for name, c := range map[string]struct {
		voters string // a letter each; b asks
		lost   string
		told   string // a letter says yes, a capital no
		want   string
	}{
		"one of three says yes":                          {"abc", "a", "c", stands},
		"the last of three refuses":                      {"abc", "a", "C", failed},
		"the lost leader of three refuses":               {"abc", "a", "A", open},
		"the lost leader of three says yes":              {"abc", "a", "a", stands},
		"nobody led, and one refuses":                    {"abc", "", "A", open},
		"nobody led, and both refuse":                    {"abc", "", "AC", failed},
		"nobody led, one refuses and one does not":       {"abc", "", "Ac", stands},
		"half of four can be had":                        {"abcd", "a", "C", failed},
		"two of five refuse, one of them the lost":       {"abcde", "a", "AC", open},
		"two of five that are not lost refuse":           {"abcde", "a", "CD", failed},
		"three of five refuse, one of them the lost":     {"abcde", "a", "ACD", failed},
		"three of five with one that is lost":            {"abcde", "a", "ac", stands},
		"two of five have said yes, and one may yet":     {"abcde", "a", "Cd", open},
		"two of five have said yes, and nobody else may": {"abcde", "a", "CdE", failed},
		"a voter has said yes twice":                     {"abcde", "a", "cc", open},
	} {
		t.Run(name, func(t *testing.T) {
			e, now, candidacy := doubtful(t)
			candidacy.Voters, candidacy.Lost = nil, c.lost
			for _, v := range c.voters {
				candidacy.Voters = append(candidacy.Voters, string(v))
			}
			attempt := begin(t, e, now, candidacy)
			got := open
			for _, v := range c.told {
				if got != open {
					t.Fatalf("it %s before %c has answered", got, v)
				}
				yes := v >= 'a'
				_, stand := e.Told(now, attempt, string(v|0x20), PreVoteAnswer{Yes: yes})
				switch {
				case stand:
					got = stands
				case e.Due(now) != now+election*3/2:
					got = failed
				}
			}
			if got != c.want {
				t.Errorf("it %s, want %s", got, c.want)
			}
		})
	}
}

func TestOnlyVoterStandsAtOnce(t *testing.T) {
	e, now, c := doubtful(t)
	c.Voters, c.Lost = []string{"b"}, ""
	if _, ask, stand := e.Stand(now, c); ask || !stand {
		t.Errorf("asks %v, stands %v", ask, stand)
	}
}

func TestPromisesInVainAreGivenBack(t *testing.T) {
	for name, fail := range map[string]func(e *Elector, attempt uint64, now int64, c Candidacy){
		"refused": func(e *Elector, attempt uint64, now int64, _ Candidacy) {
			e.Told(now, attempt, "d", PreVoteAnswer{})
			e.Told(now, attempt, "e", PreVoteAnswer{})
		},
		"not answered": func(e *Elector, _ uint64, now int64, c Candidacy) { e.Stand(now+election*3/2, c) },
	} {
		t.Run(name, func(t *testing.T) {
			e, now, c := doubtful(t)
			c.Voters = []string{"a", "b", "c", "d", "e"}
			attempt := begin(t, e, now, c)
			e.Told(now, attempt, "c", PreVoteAnswer{Yes: true})
			if freed := e.Freed(); len(freed) != 0 {
				t.Errorf("given back to %v while others may yet answer", freed)
			}
			fail(e, attempt, now, c)
			if freed := e.Freed(); !slices.Equal(freed, []string{"c"}) {
				t.Errorf("given back to %v, want c", freed)
			}
			if freed := e.Freed(); len(freed) != 0 {
				t.Errorf("and once more to %v", freed)
			}
			if v := e.Asked(now, PreVote{Candidate: "d", LastTerm: 5, LastIndex: 10}, c); v != Promise {
				t.Errorf("another server is answered %d", v)
			}
			if freed := e.Freed(); len(freed) != 0 {
				t.Errorf("and once more, for another server, to %v", freed)
			}
		})
	}
}

// An answer tells that the leader was well when it came to it: what was sent after that may have met a leader that is lost.
func TestAnswersToEarlierHeartbeatsDoNotExcuseTheNewest(t *testing.T) {
	e := NewElector(DefaultTiming, "b")
	now := int64(1e9)
	e.Follow(now, "a:1", false)
	for _, sent := range []int64{now, now + 1, now + 2} {
		e.Sent(sent)
	}
	e.Heard(now)
	e.Heard(now + 1)
	newest := now + 2
	if e.Doubts(newest + half - 1) {
		t.Error("the newest heartbeat is doubted as if it had been sent with the first")
	}
	if !e.Doubts(newest + half) {
		t.Error("the newest heartbeat has no answer, and is not doubted")
	}
}

// Answers may come in another order than the questions were sent.
func TestAnswerToTheNewestHeartbeatExcusesAll(t *testing.T) {
	for name, late := range map[string]bool{"the others have no answer": false, "the answer to the first comes last": true} {
		t.Run(name, func(t *testing.T) {
			e := NewElector(DefaultTiming, "b")
			now := int64(1e9)
			e.Follow(now, "a:1", false)
			e.Sent(now)
			newest := now + int64(DefaultTiming.Heartbeat)
			e.Sent(newest)
			e.Heard(newest)
			if late {
				e.Heard(now)
			}
			if later := newest + 10*election; e.Doubts(later) || e.Lost(later) {
				t.Error("the leader is doubted")
			}
		})
	}
}

func TestWhatAnotherLeaderWasAskedIsForgotten(t *testing.T) {
	e := NewElector(DefaultTiming, "b")
	now := int64(1e9)
	e.Follow(now, "a:1", false)
	e.Sent(now)
	e.Follow(now, "c:1", false)
	e.Sent(now + 1)
	e.Follow(now+2, "a:1", false)
	e.Heard(now)
	if later := now + 10*election; e.Doubts(later) {
		t.Error("the leader is doubted, since another one has not answered")
	}
}

// TestOfTwoThatAskEachOther: b asks, and so does another one.
func TestOfTwoThatAskEachOther(t *testing.T) {
	own := func(candidate string) PreVote { return PreVote{Candidate: candidate, LastTerm: 5, LastIndex: 9} }
	for name, c := range map[string]struct {
		asks    PreVote
		yes     string // who has said yes to b
		promise bool
	}{
		"the one whose name comes first goes on":                 {own("a"), "", true},
		"the one whose name comes later does not":                {own("c"), "", false},
		"one that has been promised a vote goes on":              {own("a"), "d", false},
		"one with a longer log goes on":                          {PreVote{Candidate: "c", LastTerm: 5, LastIndex: 10}, "", true},
		"one with a longer log goes on, whom others have chosen": {PreVote{Candidate: "c", LastTerm: 5, LastIndex: 10}, "d", true},
		"a log of a later term is longer":                        {PreVote{Candidate: "c", LastTerm: 6, LastIndex: 9}, "", true},
		"a log of a later term is longer, of however few":        {PreVote{Candidate: "c", LastTerm: 6, LastIndex: 1}, "", true},
		"one with a shorter log does not go on":                  {PreVote{Candidate: "a", LastTerm: 5, LastIndex: 8}, "", false},
		"a log of an earlier term is shorter":                    {PreVote{Candidate: "a", LastTerm: 4, LastIndex: 99}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			e, now, candidacy := doubtful(t)
			candidacy.Voters, candidacy.Lost = []string{"a", "b", "c", "d", "l"}, "l"
			attempt := begin(t, e, now, candidacy)
			if c.yes != "" {
				e.Told(now, attempt, c.yes, PreVoteAnswer{Yes: true})
			}
			verdict := e.Asked(now, c.asks, candidacy)
			if verdict != Promise && verdict != Refuse || (verdict == Promise) != c.promise {
				t.Errorf("%s, with a log of %d/%d, is answered %d", c.asks.Candidate, c.asks.LastTerm, c.asks.LastIndex, verdict)
			}
			var free []string // since they would be lost to both
			if c.promise && c.yes != "" {
				free = []string{c.yes}
			}
			if freed := e.Freed(); !slices.Equal(freed, free) {
				t.Errorf("promises are given back to %v, want %v", freed, free)
			}
			// Who has promised its vote does not use it.
			stands := false
			for _, v := range []string{"a", "c", "d"} {
				_, stand := e.Told(now, attempt, v, PreVoteAnswer{Yes: true})
				stands = stands || stand
			}
			if stands == c.promise {
				t.Errorf("it has promised its vote: %v; it stands itself: %v", c.promise, stands)
			}
		})
	}
}

// TestOfTwoThatAskEachOtherOneStands: all others are gone, and the one that goes on gets the vote of the other.
func TestOfTwoThatAskEachOtherOneStands(t *testing.T) {
	for _, logs := range [][2]uint64{{9, 9}, {9, 10}, {10, 9}} {
		first, now, c := doubtful(t)
		second := NewElector(DefaultTiming, "c")
		second.Follow(now, "a:1", false)
		second.Broke()
		of := func(log uint64) Candidacy { c := c; c.LastIndex = log; return c }
		stands := func(e *Elector, attempt uint64, other *Elector, asked Verdict) bool {
			_, stand := e.Told(now, attempt, other.name, PreVoteAnswer{Yes: asked == Promise})
			return stand
		}
		attempts := [2]uint64{begin(t, first, now, of(logs[0])), begin(t, second, now, of(logs[1]))}
		byFirst := first.Asked(now, PreVote{Candidate: "c", LastTerm: 5, LastIndex: logs[1]}, of(logs[0]))
		bySecond := second.Asked(now, PreVote{Candidate: "b", LastTerm: 5, LastIndex: logs[0]}, of(logs[1]))
		b := stands(first, attempts[0], second, bySecond)
		other := stands(second, attempts[1], first, byFirst)
		if want := logs[0] >= logs[1]; b != want || other == want {
			t.Errorf("with logs of %d and %d entries, the first stands: %v, the second: %v", logs[0], logs[1], b, other)
		}
	}
}
