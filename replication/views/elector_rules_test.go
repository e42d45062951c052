package views

import "testing"

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

func TestCandidateStandsAboveTheVotersTerm(t *testing.T) {
	e, now, c := doubtful(t)
	attempt, _, _ := e.Stand(now, c)
	if term, stand := e.Told(now, attempt, "c", PreVoteAnswer{Yes: true, Term: 8}); !stand || term != 8 {
		t.Errorf("stands: %v, after term %d, want 8", stand, term)
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
