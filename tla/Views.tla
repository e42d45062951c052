-------------------------------- MODULE Views --------------------------------
(***************************************************************************)
(* Views and leases (design: "Views, leases, failures"): who may answer    *)
(* while views change under it.  Leaders come and go, heartbeats and their *)
(* answers are late or lost, members enter views late, numbers are given   *)
(* out again, and clocks run at different rates.                           *)
(*                                                                         *)
(* Raft is taken for granted, and is here no more than what it promises:   *)
(* a leader is elected by, and commits at, a quorum that has promised      *)
(* nothing to a later term; what a leader has proposed and not committed,  *)
(* the next one may find in its log or not.                                *)
(*                                                                         *)
(* Time is real time, in ticks.  In each tick every clock moves by one of  *)
(* Rates, so clocks drift apart by up to greatest / least of them.  Only   *)
(* durations are ever compared, each by one clock: all that is kept is     *)
(* what is left of them.                                                   *)
(*                                                                         *)
(* A lease has no effect on anything but its holder's answers.  So it is   *)
(* enough to look at the leases of some members (Watched), in one          *)
(* configuration after the other.                                          *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets, Sequences

CONSTANTS
  N,           \* number of replicas, each with a vote
  Electable,   \* those that may become leader
  Watched,     \* lives whose leases are looked at, and that may be removed
  MaxTerms,    \* leaders, one after the other; replica 1 is the first
  MaxViews,    \* views, the first one included
  MaxSent,     \* heartbeats of a life that are under way at one time
  Lease,       \* in units of a clock
  Rates,       \* what clocks may move by in a tick
  Slowest, Fastest, \* the rates that the leader counts upon
  Goal,        \* what a configuration is to reach; "none" for nothing
  Mutation     \* the rule that is switched off; "none" for the protocol

VARIABLES
  promise,  \* per voter: the latest term that it has voted for or heard of
  lead,     \* per voter: the term that it leads, and what it knows
  barred,   \* the latest term whose leader has committed its barrier
  pending,  \* views proposed and not committed: at most one
  views,    \* the views that are committed
  entered,  \* per life: the view that it is in; 0 for none
  beats,    \* heartbeats under way, at the leader, and on the way back
  lease,    \* per watched life: what is left of its lease, by its clock
  ended,    \* watched lives that have ended, or have said that they leave
  left      \* those of them that have said so

vars == <<promise, lead, barred, pending, views, entered, beats, lease, ended,
          left>>

Voters == 1..N
\* A life is a number and an incarnation.  The first of each number is named
\* by the number; Newcomer is the second of number N, on a machine of its own:
\* nobody knows whether the first one has ended.
Newcomer  == N + 1
Lives     == 1..(N + 1)
Number(l) == IF l = Newcomer THEN N ELSE l

ASSUME Watched \subseteq Lives /\ Electable \subseteq Voters /\ 1 \in Electable
ASSUME Mutation \in {"none", "RemoveAtOnce", "NoDriftAllowance",
  "LeaseFromReceipt", "NoQuorumRound", "EarlierRound", "NewLeaderNoWait",
  "AnyIncarnation", "RenewWhileRemoving", "ServeAtOnce", "TermBeforeSending",
  "AnyTerm", "TwoAreEnough"}
Without(rule) == Mutation = rule

Quorums == {Q \in SUBSET Voters : 2 * Cardinality(Q) > N}

Max(a, b)   == IF a > b THEN a ELSE b
Minus(a, b) == IF a > b THEN a - b ELSE 0

\* How long a lease may last by another clock: rounded up.
Wait == IF Without("NoDriftAllowance") THEN Lease
        ELSE (Lease * Fastest + Slowest - 1) \div Slowest

-----------------------------------------------------------------------------
View(members, serving) == [members |-> members, serving |-> serving]
Last == Len(views)

NotLeading == [term |-> 0, ready |-> FALSE, epoch |-> 0, round |-> {},
               proposed |-> {}, wait |-> [w \in Watched |-> 0]]

Init ==
  /\ promise = [v \in Voters |-> 1]
  /\ lead    = [v \in Voters |-> IF v = 1
                  THEN [NotLeading EXCEPT !.term = 1, !.ready = TRUE,
                                          !.epoch = 1]
                  ELSE NotLeading]
  /\ barred  = 1
  /\ pending = {}
  /\ views   = <<View(Voters, Voters)>>
  /\ entered = [l \in Lives |-> IF l \in Voters THEN 1 ELSE 0]
  /\ beats   = {}
  /\ lease   = [w \in Watched |-> 0]
  /\ ended   = {}
  /\ left    = {}

-----------------------------------------------------------------------------
(* Time.                                                                   *)

\* What is left of a heartbeat is the lease that its answer would give.  One
\* that has nothing left is forgotten.
Aged(b, d) ==
  [b EXCEPT !.left = IF Without("LeaseFromReceipt") THEN @ ELSE Minus(@, d)]

Tick == \E rate \in [Lives -> Rates] :
  /\ lease' = [w \in Watched |-> Minus(lease[w], rate[w])]
  /\ beats' = {b \in {Aged(x, rate[x.life]) : x \in beats} : b.left > 0}
  /\ lead'  = [v \in Voters |->
       [lead[v] EXCEPT !.wait = [w \in Watched |-> Minus(@[w], rate[v])]]]
  /\ UNCHANGED <<promise, barred, pending, views, entered, ended, left>>

-----------------------------------------------------------------------------
(* Heartbeats and leases.                                                  *)

Sent(w) == {b \in beats : b.life = w}

\* A heartbeat says the term of the voter in its process, read when the time that
\* the lease counts from has been taken, or later: at once is the least that it
\* can be.  A newcomer has no vote, and says none.
Says(w) == IF w \notin Voters THEN {0}
           ELSE IF Without("TermBeforeSending") THEN 1..promise[w]
           ELSE {promise[w]}

Send(w) ==
  /\ w \notin ended /\ Cardinality(Sent(w)) < MaxSent
  /\ \E said \in Says(w) :
       beats' = beats \cup {[life |-> w, left |-> Lease, at |-> 0, term |-> 0,
                             said |-> said, acks |-> {}]}
  /\ UNCHANGED <<promise, lead, barred, pending, views, entered, lease, ended,
                 left>>

Lose(b) ==
  /\ beats' = beats \ {b}
  /\ UNCHANGED <<promise, lead, barred, pending, views, entered, lease, ended,
                 left>>

\* Whose heartbeats leader v answers: members of the newest view that it has
\* committed or found committed, but not one whose removal it has proposed: it does
\* not know whether a later leader has found that in its log, and committed it.
Renews(v, l) ==
  /\ lead[v].ready
  /\ LET members == views[lead[v].epoch].members
     IN  \/ l \in members
         \/ Without("AnyIncarnation") /\ \E m \in members : Number(m) = Number(l)
  /\ \/ \A view \in lead[v].proposed : l \in view.members
     \/ Without("RenewWhileRemoving")

\* The sender knew of no later term than the leader's when it said its own, so it
\* need not be asked.  With the leader it is a quorum of two or three voters; of
\* more, others are asked, too, or have said it: see Confirm.
Vouches(b, v) ==
  /\ b.said # 0 /\ promise[v] = lead[v].term
  /\ b.said <= lead[v].term \/ Without("AnyTerm")

\* A heartbeat arrives at a leader, or at one that takes itself for the leader.
\* What is granted for it ends before Wait has passed here.
Arrive(b, v) ==
  /\ b.at = 0 /\ Renews(v, b.life)
  /\ beats' = (beats \ {b}) \cup
       {[b EXCEPT !.at = v, !.term = lead[v].term,
                  !.acks = {v} \cup IF Vouches(b, v) THEN {b.life} ELSE {}]}
  /\ lead' = [lead EXCEPT ![v].wait[b.life] = Wait]
  /\ UNCHANGED <<promise, barred, pending, views, entered, lease, ended, left>>

\* A voter confirms, after the heartbeat has arrived, that it knows of no later
\* term: it is asked, or it gives back, with a heartbeat of its own, what the
\* leader had answered after this one's arrival.  In groups of four and more all
\* do that, the sender too, and its lease comes with the answer to its next
\* heartbeat (Leader.agree in Go): to Renew it is the same.  The round of one
\* heartbeat is a round of its own here: rounds for many are no more than these
\* at one time.
Confirm(b, f) ==
  /\ b.at # 0 /\ f \notin b.acks /\ promise[f] <= b.term
  /\ promise' = [promise EXCEPT ![f] = b.term]
  /\ beats'   = (beats \ {b}) \cup {[b EXCEPT !.acks = @ \cup {f}]}
  /\ UNCHANGED <<lead, barred, pending, views, entered, lease, ended, left>>

\* Not the protocol: a round that was begun before the heartbeat arrived.
EarlierRound(v, f) ==
  /\ Without("EarlierRound") /\ lead[v].ready
  /\ f \notin lead[v].round /\ promise[f] <= lead[v].term
  /\ lead'    = [lead EXCEPT ![v].round = @ \cup {f}]
  /\ promise' = [promise EXCEPT ![f] = lead[v].term]
  /\ UNCHANGED <<barred, pending, views, entered, beats, lease, ended, left>>

Confirmed(b) ==
  \/ b.acks \in Quorums
  \/ Without("TwoAreEnough") /\ Cardinality(b.acks) > 1
  \/ Without("NoQuorumRound")
  \/ Without("EarlierRound") /\ lead[b.at].round \in Quorums

\* The answer comes back: the lease is counted from when the heartbeat was sent.
Renew(b) ==
  /\ b.at # 0 /\ Confirmed(b)
  /\ beats' = beats \ {b}
  /\ lease' = [lease EXCEPT ![b.life] = Max(@, b.left)]
  /\ UNCHANGED <<promise, lead, barred, pending, views, entered, ended, left>>

\* A member's life ends, or it says that it leaves and answers nothing from then
\* on; the leader may hear of that.
End(w, says) ==
  /\ w \notin ended
  /\ ended' = ended \cup {w}
  /\ left'  = IF says THEN left \cup {w} ELSE left
  /\ lease' = [lease EXCEPT ![w] = 0]
  /\ beats' = beats \ Sent(w)
  /\ UNCHANGED <<promise, lead, barred, pending, views, entered>>

HearLeave(v, w) ==
  /\ w \in left /\ lead[v].ready /\ lead[v].wait[w] > 0
  /\ lead' = [lead EXCEPT ![v].wait[w] = 0]
  /\ UNCHANGED <<promise, barred, pending, views, entered, beats, lease, ended,
                 left>>

-----------------------------------------------------------------------------
(* Leaders.                                                                *)

MaxOf(S) == CHOOSE x \in S : \A y \in S : y <= x
Latest   == MaxOf({promise[v] : v \in Voters})

\* Those who vote for another one lead no longer; others who lead do not know.
Elect(v, Q) ==
  /\ Latest < MaxTerms /\ v \in Q /\ v \in Electable \ ended
  /\ promise' = [f \in Voters |-> IF f \in Q THEN Latest + 1 ELSE promise[f]]
  /\ lead'    = [f \in Voters |->
       IF f = v THEN [NotLeading EXCEPT !.term = Latest + 1]
       ELSE IF f \in Q THEN NotLeading ELSE lead[f]]
  /\ UNCHANGED <<barred, pending, views, entered, beats, lease, ended, left>>

\* Q is a quorum that has heard of no later term than v's, and now has of v's.
Follows(v, Q) == \A f \in Q : promise[f] <= lead[v].term
Heard(v, Q)   == [f \in Voters |-> IF f \in Q THEN lead[v].term ELSE promise[f]]

\* The new leader's barrier settles what was pending: it is in its log, and so
\* committed, or never will be.  From here on the leader counts.
Barrier(v, Q) ==
  /\ lead[v].term # 0 /\ ~lead[v].ready /\ v \notin ended /\ Follows(v, Q)
  /\ promise' = Heard(v, Q)
  /\ barred'  = lead[v].term
  /\ \E found \in {{}, pending} :
       /\ views' = IF found = {} THEN views
                   ELSE Append(views, (CHOOSE p \in found : TRUE).view)
       /\ lead'  = [lead EXCEPT ![v].ready = TRUE, ![v].epoch = Len(views'),
            ![v].wait = [w \in Watched |->
                           IF Without("NewLeaderNoWait") THEN 0 ELSE Wait]]
  /\ pending' = {}
  /\ UNCHANGED <<entered, beats, lease, ended, left>>

\* One change at a time, upon the newest view.  What a leader proposes after a
\* later one's barrier comes to nothing.
Propose(v, view) ==
  /\ lead[v].ready /\ v \notin ended /\ lead[v].term >= barred
  /\ lead[v].epoch = Last /\ Last < MaxViews /\ pending = {}
  /\ pending' = {[term |-> lead[v].term, view |-> view]}
  /\ lead'    = [lead EXCEPT ![v].proposed = {view}]
  /\ UNCHANGED <<promise, barred, views, entered, beats, lease, ended, left>>

Commit(v, Q) == \E p \in pending :
  /\ p.term = lead[v].term /\ v \notin ended /\ Follows(v, Q)
  /\ promise' = Heard(v, Q)
  /\ pending' = {}
  /\ views'   = Append(views, p.view)
  /\ lead'    = [lead EXCEPT ![v].epoch = Len(views'), ![v].proposed = {}]
  /\ UNCHANGED <<barred, entered, beats, lease, ended, left>>

Now == views[Last]

\* The last lease that this leader or one before it may have granted is over.
Remove(v, w) ==
  /\ w \in Now.members /\ Cardinality(Now.serving \ {w}) > 0
  /\ lead[v].wait[w] = 0 \/ Without("RemoveAtOnce")
  /\ Propose(v, View(Now.members \ {w}, Now.serving \ {w}))

\* A newcomer is listed when its number is free and all are settled in the
\* present view, for which they must have entered it.
Admit(v) ==
  /\ \A m \in Now.members : Number(m) # Number(Newcomer) /\ entered[m] = Last
  /\ \A e \in 1..Last : Newcomer \notin views[e].members
  /\ Propose(v, View(Now.members \cup {Newcomer},
                     IF Without("ServeAtOnce") THEN Now.serving \cup {Newcomer}
                     ELSE Now.serving))

\* It has entered the present view, and so has the one that has streamed to it.
Serve(v) ==
  /\ Newcomer \in Now.members \ Now.serving /\ entered[Newcomer] = Last
  /\ \E s \in Now.serving : entered[s] = Last
  /\ Propose(v, View(Now.members, Now.serving \cup {Newcomer}))

\* Members enter views late, and may miss some.
Enter(l, e) ==
  /\ entered[l] < e /\ l \in views[e].members /\ l \notin ended
  /\ entered' = [entered EXCEPT ![l] = e]
  /\ UNCHANGED <<promise, lead, barred, pending, views, beats, lease, ended,
                 left>>

-----------------------------------------------------------------------------
Propositions(v) == (\E w \in Watched : Remove(v, w)) \/ Admit(v) \/ Serve(v)

Next ==
  \/ Tick
  \/ \E w \in Watched : Send(w) \/ End(w, TRUE) \/ End(w, FALSE)
  \/ \E b \in beats : \/ Lose(b) \/ Renew(b)
                      \/ \E v \in Voters : Arrive(b, v) \/ Confirm(b, v)
  \/ \E v \in Voters :
       \/ \E f \in Voters : EarlierRound(v, f)
       \/ \E w \in Watched : HearLeave(v, w)
       \/ \E Q \in Quorums : Elect(v, Q) \/ Barrier(v, Q) \/ Commit(v, Q)
       \/ Propositions(v)
  \/ \E l \in Lives : \E e \in 1..Last : Enter(l, e)

Spec == Init /\ [][Next]_vars

\* Time goes on, and leaders do their work; nobody has to end, or be elected.
Fairness ==
  /\ WF_vars(Tick)
  /\ WF_vars(\E v \in Voters : Propositions(v))
  /\ WF_vars(\E v \in Voters : \E Q \in Quorums : Barrier(v, Q))
  /\ WF_vars(\E v \in Voters : \E Q \in Quorums : Commit(v, Q))
FairSpec == Spec /\ Fairness

-----------------------------------------------------------------------------
(* What holds.                                                             *)

TypeOK ==
  /\ \A w \in Watched : lease[w] \in 0..Lease
  /\ \A v \in Voters : \A w \in Watched : lead[v].wait[w] \in 0..Wait
  /\ \A v \in Voters : lead[v].term <= promise[v]
  /\ Cardinality(pending) <= 1
  /\ left \subseteq ended
  /\ \A l \in Lives : entered[l] \in 0..Last

\* w may answer: its lease is live, and the view that it is in has it serving.
Answers(w) ==
  /\ w \notin ended /\ lease[w] > 0
  /\ entered[w] # 0 /\ w \in views[entered[w]].serving

\* Nobody has left view e for a later one: an update that begins now can gather
\* all acknowledgements in it, from members that are in it or yet to enter it.
CanComplete(e) == \A m \in views[e].members : entered[m] <= e

\* No replica answers while an update can complete without it.
NobodyAnswersOutside == \A w \in Watched : Answers(w) =>
  \A e \in 1..Last : w \notin views[e].members => ~CanComplete(e)

\* The same in the words of the design: in a view without this life, whose last
\* lease has run out when the view is committed, and so before anyone enters it.
RemovedHasNoLease == \A w \in Watched : lease[w] > 0 =>
  \A e \in 1..Last : w \notin views[e].members =>
    \A d \in 1..e : w \notin views[d].members

\* A number has one life in a view.
OneLifePerNumber == \A e \in 1..Last : \A l, m \in views[e].members :
  Number(l) = Number(m) => l = m

\* To be violated where a goal is set, or the rest would say nothing: a second
\* leader renews a lease; a member has been removed, and a newcomer of its number
\* answers.
GoalNotReached ==
  CASE Goal = "renewed"  -> ~\E b \in beats : /\ b.term > 1 /\ Confirmed(b)
                                              /\ b.life \in Now.members
    [] Goal = "replaced" -> ~(Newcomer \in Watched /\ Answers(Newcomer))
    [] Goal = "none"     -> TRUE

\* Under FairSpec: who has ended is removed, unless that one leads.
EndedIsRemoved == \A w \in Watched :
  w \in ended /\ Latest = MaxTerms /\ lead[w].term # Latest
    ~> w \notin Now.members
=============================================================================
