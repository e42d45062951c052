package views

import (
	"testing"
	"time"
)

// doubtful is an elector of server b, of a, b and c, that has lost its leader a, and its candidacy.
func doubtful(t *testing.T) (e *Elector, now int64, c Candidacy) {
	t.Helper()
	e = NewElector(DefaultTiming, "b")
	now = int64(1e9)
	e.Follow(now, "a:1", false)
	e.Sent(now)
	e.Broke()
	return e, now, Candidacy{Voters: []string{"a", "b", "c"}, Lost: "a", Term: 5, LastTerm: 5, LastIndex: 9}
}

// A process that was kept from running finds that its heartbeat is old: the leader is lost only when a probe has stayed without an answer too.
func TestLeaderIsNotLostBeforeItHasBeenProbed(t *testing.T) {
	e := NewElector(DefaultTiming, "b")
	now := int64(1e9)
	e.Follow(now, "a:1", false)
	e.Sent(now)
	now += 10 * int64(DefaultTiming.Election)
	if e.Lost(now) {
		t.Error("lost without a probe")
	}
	if !e.Doubts(now) {
		t.Fatal("no probe")
	}
	e.Sent(now)
	if at := e.Due(now); at != now+half {
		t.Errorf("it looks again in %v", time.Duration(at-now))
	}
	if now += int64(DefaultTiming.Election)/2 - 1; e.Lost(now) {
		t.Error("lost before the probe could be answered")
	}
	if now++; !e.Lost(now) {
		t.Error("not lost after the probe")
	}
}

func TestVotesOfOthersDoNotCountWhenTheLeaderIsBack(t *testing.T) {
	e, now, c := doubtful(t)
	attempt, ask, _ := e.Stand(now, c)
	if !ask {
		t.Fatal("nobody is asked")
	}
	e.Heard(now)
	if _, stand := e.Told(now, attempt, "c", PreVoteAnswer{Yes: true}); stand {
		t.Error("it stands, though the leader has answered")
	}
}

func TestCandidateStandsAboveTheTermsOfAll(t *testing.T) {
	for name, terms := range map[string]struct{ first, second, want uint64 }{
		"its own":         {3, 4, 5},
		"the first's":     {8, 3, 8},
		"the second's":    {3, 8, 8},
		"one that it has": {5, 5, 5},
	} {
		t.Run(name, func(t *testing.T) {
			e, now, c := doubtful(t) // in term 5
			c.Voters = []string{"a", "b", "c", "d", "e"}
			attempt, _, _ := e.Stand(now, c)
			e.Told(now, attempt, "c", PreVoteAnswer{Yes: true, Term: terms.first})
			if term, stand := e.Told(now, attempt, "d", PreVoteAnswer{Yes: true, Term: terms.second}); !stand || term != terms.want {
				t.Errorf("stands: %v, after term %d, want %d", stand, term, terms.want)
			}
		})
	}
}

func TestAnswersToPreVotes(t *testing.T) {
	e, now, c := doubtful(t)
	q := PreVote{Candidate: "c", LastTerm: 5, LastIndex: 9}
	stranger := q
	stranger.Candidate = "x"
	if v := e.Asked(now, stranger, c); v != Refuse {
		t.Errorf("a server that is no voter is answered %d", v)
	}
	if v := e.Asked(now, q, c); v != Promise {
		t.Fatalf("a voter is answered %d", v)
	}
	other := q
	other.Candidate = "a"
	if v := e.Asked(now, other, c); v != Refuse {
		t.Errorf("while another has its promise, a voter is answered %d", v)
	}
	q.Withdrawn = true
	e.Asked(now, q, c)
	if v := e.Asked(now, other, c); v != Promise {
		t.Errorf("after the promise has been given back, a voter is answered %d", v)
	}
}

// promised is an elector of server b that has lost its leader a and has promised its vote to c.
func promised(t *testing.T) (e *Elector, now int64, c Candidacy) {
	t.Helper()
	e, now, c = doubtful(t)
	if v := e.Asked(now, PreVote{Candidate: "c", LastTerm: 5, LastIndex: 9}, c); v != Promise {
		t.Fatalf("it is answered %d", v)
	}
	return e, now, c
}

func TestPromiseHoldsForAWhile(t *testing.T) {
	e, now, c := promised(t)
	first, other := PreVote{Candidate: "c", LastTerm: 5, LastIndex: 9}, PreVote{Candidate: "a", LastTerm: 5, LastIndex: 9}
	other.Withdrawn = true
	e.Asked(now, other, c) // not its promise
	other.Withdrawn = false
	waits(t, e, now, now+election*3/2)
	if v := e.Asked(now+election*3/2-1, other, c); v != Refuse {
		t.Errorf("before the promise is over, another server is answered %d", v)
	}
	if v := e.Asked(now+election*3/2-1, first, c); v != Promise {
		t.Errorf("who has the promise and asks again is answered %d", v)
	}
	now += election*3/2 - 1
	if v := e.Asked(now+election*3/2, other, c); v != Promise {
		t.Errorf("when the promise is over, another server is answered %d", v)
	}
}

// What was promised, or tried, for one leader's sake does not bind when the next one is lost.
func TestNewLeaderEndsPromisesAndCandidacies(t *testing.T) {
	for name, begin := range map[string]func(t *testing.T) (*Elector, int64, Candidacy){
		"a promise": promised,
		"a candidacy": func(t *testing.T) (*Elector, int64, Candidacy) {
			e, now, c := doubtful(t)
			attempt, _, _ := e.Stand(now, c)
			if _, stand := e.Told(now, attempt, "c", PreVoteAnswer{Yes: true}); !stand {
				t.Fatal("it does not stand")
			}
			return e, now, c
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, now, c := begin(t)
			if e.Wants(now) {
				t.Fatal("it does not bind at all")
			}
			e.Follow(now, "c:1", false)
			e.Broke()
			if !e.Wants(now) {
				t.Error("it is kept from asking")
			}
			if v := e.Asked(now, PreVote{Candidate: "a", LastTerm: 5, LastIndex: 9}, c); v != Promise {
				t.Errorf("another server is answered %d", v)
			}
		})
	}
}

// Its election takes some time, and another one would only take the votes from it.
func TestWhoHasStoodWaitsForTheElection(t *testing.T) {
	e, now, c := doubtful(t)
	attempt, _, _ := e.Stand(now, c)
	e.Told(now, attempt, "c", PreVoteAnswer{Yes: true})
	waits(t, e, now, now+4*election)
	q := PreVote{Candidate: "c", LastTerm: 5, LastIndex: 10}
	if v := e.Asked(now+2*election-1, q, c); v != Refuse {
		t.Errorf("within two election timeouts another server is answered %d", v)
	}
	if v := e.Asked(now+2*election, q, c); v != Promise {
		t.Errorf("after two election timeouts another server is answered %d", v)
	}
}

// That nobody leads for a moment is part of every election.
func TestServerWithoutALeaderWaitsForTheOneBeingElected(t *testing.T) {
	for name, earlier := range map[string]func(t *testing.T) *Elector{
		"one that has lost it": func(t *testing.T) *Elector { e, _, _ := doubtful(t); return e },
		"a new one":            func(*testing.T) *Elector { return NewElector(DefaultTiming, "b") },
		"one that has led, after attempts in vain": func(t *testing.T) *Elector {
			e, now, c := doubtful(t)
			for range 6 {
				vain(t, e, now, c)
				now = e.Due(now)
			}
			e.Follow(now, "", true)
			return e
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, now := earlier(t), int64(2e9)
			e.Follow(now, "", false)
			waits(t, e, now, now+election)
		})
	}
}

// raft itself has become a candidate, or has met a later term.
func TestBackOffGoesOnWhenNobodyIsKnownToLead(t *testing.T) {
	e, now, c := doubtful(t)
	for range 5 {
		vain(t, e, now, c)
		now = e.Due(now)
	}
	vain(t, e, now, c)
	e.Follow(now, "", false)
	waits(t, e, now, now+16*half)
}

func TestLeaderIsProbedOnce(t *testing.T) {
	now := int64(1e9)
	e := NewElector(DefaultTiming, "b")
	e.Follow(now, "a:1", false)
	if at := e.Due(now); at != now+int64(time.Second) {
		t.Errorf("with nothing sent, it looks again in %v", time.Duration(at-now))
	}
	e.Sent(now)
	if at := e.Due(now); at != now+half || e.Doubts(at-1) || !e.Doubts(at) {
		t.Errorf("the heartbeat is doubted after %v", time.Duration(at-now))
	}
	e.Sent(now + half)
	if e.Doubts(now + half) {
		t.Error("it is probed twice")
	}
	if at := e.Due(now + half); at != now+2*half || e.Lost(at-1) || !e.Lost(at) {
		t.Errorf("the leader is lost after %v", time.Duration(at-now))
	}
}

func TestBrokenConnectionIsNotProbed(t *testing.T) {
	e, now, _ := doubtful(t)
	if e.Doubts(now + half) {
		t.Error("the leader is probed")
	}
}

func TestLeaderWaitsForNobody(t *testing.T) {
	e, now, _ := doubtful(t)
	e.Follow(now, "", true)
	e.Sent(now) // to the one before
	now += election
	if at := e.Due(now); at != now+int64(time.Second) || e.Lost(now) || e.Wants(now) {
		t.Errorf("it looks again in %v; it is lost: %v; it wants to ask: %v", time.Duration(at-now), e.Lost(now), e.Wants(now))
	}
}

func TestLeaderPromisesNothing(t *testing.T) {
	e, now, c := doubtful(t)
	e.Follow(now, "", true)
	if v := e.Asked(now, PreVote{Candidate: "c", LastTerm: 5, LastIndex: 10}, c); v != Refuse {
		t.Errorf("it answers %d", v)
	}
}

// A server that has been added and has no configuration yet is counted by the others.
func TestServerWithoutAConfigurationVotes(t *testing.T) {
	e, now, _ := doubtful(t)
	e.Follow(now, "", false)
	if v := e.Asked(now, PreVote{Candidate: "c", LastTerm: 5, LastIndex: 9}, Candidacy{}); v != Promise {
		t.Errorf("it answers %d", v)
	}
}

func TestServerThatIsNoVoterLooksNowAndThenWhetherItIs(t *testing.T) {
	e, now, c := doubtful(t)
	c.Voters = []string{"a", "c"}
	if _, ask, stand := e.Stand(now, c); ask || stand {
		t.Errorf("asks %v, stands %v", ask, stand)
	}
	waits(t, e, now, now+int64(outsideInterval))
}
