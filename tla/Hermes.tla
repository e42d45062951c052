------------------------------- MODULE Hermes -------------------------------
(***************************************************************************)
(* One key of hermesd's replication protocol (design: "The protocol"):     *)
(* reads, plain writes and read-modify-writes from any replica, over a     *)
(* network that delivers any message that was ever sent, at any time, in   *)
(* any order, any number of times or never; members that crash, views that *)
(* the survivors enter one after the other, and replays.                   *)
(*                                                                         *)
(* A value is named by the time stamp of the update that wrote it: the     *)
(* invariants say that no two updates have the same one.                   *)
(*                                                                         *)
(* Reads are not actions.  A replica that holds the key valid could be     *)
(* read at that moment, so every value that is valid anywhere counts as    *)
(* read (`observed').  The invariants therefore hold with any reads.       *)
(*                                                                         *)
(* README.md in this folder says how this maps to the Go engine, and what  *)
(* is left out.                                                            *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets, Sequences

CONSTANTS
  N,             \* number of replicas
  MaxWrites,     \* plain writes that are started in a behaviour
  MaxRMWs,       \* attempts of read-modify-writes that are started
  MaxCrashes,    \* replicas that crash
  LoseVALs,      \* TRUE: a VAL may be sent to some only (matters to liveness)
  PublishedRMW,  \* TRUE: the paper's time stamps instead of ours
  Mutation       \* the rule that is switched off; "none" for the protocol

VARIABLES
  key,       \* per replica: [ts, valid, finisher]
  flight,    \* per replica: its own updates in flight, and its replays
  msgs,      \* every message sent so far
  views,     \* the sequence of views: sets of members
  epoch,     \* per replica: the view that it is in
  crashed,   \* replicas that have crashed
  log,       \* history: every update started
  observed,  \* history: time stamps of values that could be read somewhere
  answered,  \* history: time stamps of updates answered to clients
  lost       \* history: attempts of RMWs that their coordinator gave up

vars == <<key, flight, msgs, views, epoch, crashed, log, observed, answered,
          lost>>

Replicas == 1..N

ASSUME Mutation \in {"none", "AckAnyRMW", "CompleteOutranked",
                     "VALNotCompared", "OutrankedWriteUnanswered",
                     "KeepRMWAcks", "AckAnyReplay", "ReplayLive",
                     "NeverReplay", "NeverProbe", "PlainWriteRefused",
                     "AnswerFirst", "RMWOnInvalid", "AnyEpoch"}
Without(rule) == Mutation = rule

-----------------------------------------------------------------------------
(* Time stamps (version, writer, step, stepper), compared in this order.   *)
(* They are written as numbers of four digits, one for each part, which    *)
(* keeps the model checker fast and its traces readable: 2101 is the first *)
(* step, taken by replica 1, on top of version 2 of replica 1.             *)

TS(version, writer, step, stepper) ==
  1000 * version + 100 * writer + 10 * step + stepper
Zero         == 0
Version(ts)  == ts \div 1000
OneStepUp(ts) == 10 * (ts \div 10 + 1)   \* version and writer stay

\* The next time stamp on top of old: the paper's rule, and ours.
WriteTS(r, old) == IF PublishedRMW THEN TS(Version(old) + 2, r, 0, 0)
                                   ELSE TS(Version(old) + 1, r, 0, 0)
RMWTS(r, old)   == IF PublishedRMW THEN TS(Version(old) + 1, r, 0, 0)
                                   ELSE OneStepUp(old) + r

-----------------------------------------------------------------------------
Alive       == Replicas \ crashed
Members(r)  == views[epoch[r]]
Peers(r)    == Members(r) \ {r}

\* A message of another view than the receiver's is void; one of a later view
\* waits, which here is the same as not being received yet.
Hears(r, m) == /\ m.from # r /\ m.to \in {0, r}
               /\ m.epoch = epoch[r] \/ Without("AnyEpoch")

INV(r, u, e) == [type |-> "INV", from |-> r, to |-> 0, epoch |-> e, ts |-> u.ts,
                 kind |-> u.kind, replay |-> u.replay]
VAL(r, ts, e) == [type |-> "VAL", from |-> r, to |-> 0, epoch |-> e, ts |-> ts]
ACK(r, m)  == [type |-> "ACK", from |-> r, to |-> m.from, epoch |-> m.epoch,
               ts |-> m.ts]
NACK(r, m) == [type |-> "NACK", from |-> r, to |-> m.from, epoch |-> m.epoch,
               ts |-> m.ts, newer |-> key[r].ts,
               \* who can say what becomes of the newer state: its finisher,
               \* or this replica where the state is valid
               finisher |-> IF key[r].valid THEN r ELSE key[r].finisher]

Invalid(ts, finisher) == [ts |-> ts, valid |-> FALSE, finisher |-> finisher]
Valid(ts)             == [ts |-> ts, valid |-> TRUE, finisher |-> 0]

Init ==
  /\ key      = [r \in Replicas |-> Valid(Zero)]
  /\ flight   = [r \in Replicas |-> {}]
  /\ msgs     = {}
  /\ views    = <<Replicas>>
  /\ epoch    = [r \in Replicas |-> 1]
  /\ crashed  = {}
  /\ log      = {}
  /\ observed = {Zero}
  /\ answered = {}
  /\ lost     = {}

-----------------------------------------------------------------------------
(* The coordinator.                                                        *)

Started(kind) == Cardinality({u \in log : u.kind = kind})

OwnRMW(r) == {u \in flight[r] : u.kind = "rmw" /\ ~u.replay}

Launch(r, ts, kind) ==
  LET u == [ts |-> ts, kind |-> kind, replay |-> FALSE, acks |-> {}]
  IN  /\ key'    = [key EXCEPT ![r] = Invalid(ts, r)]
      /\ flight' = [flight EXCEPT ![r] = @ \cup {u}]
      /\ msgs'   = msgs \cup {INV(r, u, epoch[r])}
      /\ log'    = log \cup
           {[ts |-> ts, kind |-> kind, base |-> key[r].ts,
             \* what was read or answered before it began must stay below it
             above |-> \A o \in observed \cup answered : o < ts]}
      /\ answered' = IF Without("AnswerFirst") THEN answered \cup {ts}
                                               ELSE answered
      /\ UNCHANGED <<views, epoch, crashed, lost>>

\* A plain write may start on an invalid key, but not on an own RMW in flight.
StartWriteAt(r, ts) ==
  /\ r \notin crashed /\ Peers(r) # {}
  /\ Started("write") < MaxWrites
  /\ ~\E u \in OwnRMW(r) : u.ts = key[r].ts
  /\ Launch(r, ts, "write")

StartWrite(r) == StartWriteAt(r, WriteTS(r, key[r].ts))

StartRMW(r) ==
  /\ r \notin crashed /\ Peers(r) # {}
  /\ Started("rmw") < MaxRMWs
  /\ key[r].valid \/ Without("RMWOnInvalid")
  /\ ~\E u \in OwnRMW(r) : u.ts = key[r].ts
  /\ Launch(r, RMWTS(r, key[r].ts), "rmw")

\* The update u of r is complete: every member has it.  The key is validated if
\* it is still at it.
Current(r, u) == u.ts = key[r].ts /\ ~key[r].valid

Complete(r, u) ==
  LET stuck == Without("OutrankedWriteUnanswered") /\ ~Current(r, u)
      sent  == IF Current(r, u) THEN {VAL(r, u.ts, epoch[r])} ELSE {}
  IN  /\ flight'   = [flight EXCEPT ![r] = {x \in @ : x.ts # u.ts \/ x.replay # u.replay}
                                             \cup IF stuck THEN {u} ELSE {}]
      /\ answered' = answered \cup IF u.replay \/ stuck THEN {} ELSE {u.ts}
      /\ IF Current(r, u) THEN key' = [key EXCEPT ![r] = Valid(@.ts)]
                          ELSE UNCHANGED key
      /\ \/ msgs' = msgs \cup sent
         \/ LoseVALs /\ UNCHANGED msgs

ReceiveACK(r, m) ==
  /\ \E u \in flight[r] :
       /\ u.ts = m.ts /\ m.from \notin u.acks
       /\ LET v == [u EXCEPT !.acks = @ \cup {m.from}]
          IN  IF Peers(r) \subseteq v.acks
              THEN Complete(r, v)
              ELSE /\ flight' = [flight EXCEPT ![r] = (@ \ {u}) \cup {v}]
                   /\ UNCHANGED <<key, msgs, answered>>
  /\ UNCHANGED <<views, epoch, crashed, log, lost>>

\* In a new view: whoever had not acknowledged it is gone.
CompleteWithout(r) ==
  /\ r \notin crashed
  /\ \E u \in flight[r] :
       /\ Peers(r) \subseteq u.acks
       /\ Without("OutrankedWriteUnanswered") => Current(r, u)
       /\ Complete(r, u)
  /\ UNCHANGED <<views, epoch, crashed, log, lost>>

\* A refused RMW did not happen and never will under that time stamp.  What the
\* follower has instead is adopted, invalid.
ReceiveNACK(r, m) ==
  /\ \E u \in flight[r] :
       /\ u.ts = m.ts
       /\ flight' = [flight EXCEPT ![r] = @ \ {u}]
       /\ lost'   = IF u.replay THEN lost ELSE lost \cup {u.ts}
  /\ IF key[r].ts = m.ts /\ ~key[r].valid
     THEN key' = [key EXCEPT ![r] = Invalid(m.newer, IF m.finisher = r
                                            THEN m.from ELSE m.finisher)]
     ELSE UNCHANGED key
  /\ UNCHANGED <<msgs, views, epoch, crashed, log, answered>>

-----------------------------------------------------------------------------
(* The follower.                                                           *)

\* The state of the key is overwritten: an own RMW that it was is outranked.  A
\* replay of it goes on, and comes to nothing.
Outranked(r) == {u \in OwnRMW(r) : u.ts = key[r].ts}

Apply(r, m) ==
  LET gone == IF Without("CompleteOutranked") THEN {} ELSE Outranked(r)
  IN  /\ key'    = [key EXCEPT ![r] = Invalid(m.ts, m.from)]
      /\ flight' = [flight EXCEPT ![r] = @ \ gone]
      /\ lost'   = lost \cup {u.ts : u \in gone}

AlwaysAcked(m) ==
  IF m.replay THEN Without("AckAnyReplay")
  ELSE IF m.kind = "write" THEN ~Without("PlainWriteRefused")
  ELSE Without("AckAnyRMW")

\* What a member that is gone has left, and is not replayed here yet, is
\* another's to finish if that replays it.
TakenOver(r, m) == /\ m.ts = key[r].ts /\ m.replay
                   /\ ~key[r].valid /\ key[r].finisher \notin Members(r)

ReceiveINV(r, m) ==
  /\ IF key[r].ts < m.ts
     THEN /\ Apply(r, m)
          /\ msgs' = msgs \cup {ACK(r, m)}
     ELSE /\ msgs' = msgs \cup
               {IF m.ts = key[r].ts \/ AlwaysAcked(m) THEN ACK(r, m)
                                                      ELSE NACK(r, m)}
          /\ IF TakenOver(r, m)
             THEN key' = [key EXCEPT ![r].finisher = m.from]
             ELSE UNCHANGED key
          /\ UNCHANGED <<flight, lost>>
  /\ UNCHANGED <<views, epoch, crashed, log, answered>>

ReceiveVAL(r, m) ==
  /\ ~key[r].valid
  /\ m.ts = key[r].ts \/ Without("VALNotCompared")
  /\ key' = [key EXCEPT ![r] = Valid(@.ts)]
  /\ UNCHANGED <<flight, msgs, views, epoch, crashed, log, answered, lost>>

\* A replica that has waited long asks the finisher, which answers if it holds
\* something valid that is as new.  The question is not modelled as a message:
\* an answer may come at any time.
AnswerProbe(f, r) ==
  /\ ~Without("NeverProbe")
  /\ r \notin crashed /\ f \notin crashed /\ r # f /\ epoch[r] = epoch[f]
  /\ ~key[r].valid /\ key[r].finisher = f
  /\ key[f].valid /\ key[r].ts <= key[f].ts
  /\ msgs' = msgs \cup {[type |-> "STATE", from |-> f, to |-> r,
                         epoch |-> epoch[f], ts |-> key[r].ts,
                         newer |-> key[f].ts]}
  /\ UNCHANGED <<key, flight, views, epoch, crashed, log, answered, lost>>

ReceiveSTATE(r, m) ==
  /\ ~key[r].valid /\ key[r].ts = m.ts /\ key[r].finisher # r
  /\ key' = [key EXCEPT ![r] = Valid(m.newer)]
  /\ UNCHANGED <<flight, msgs, views, epoch, crashed, log, answered, lost>>

-----------------------------------------------------------------------------
(* Crashes, views and replays.                                             *)

Crash(r) ==
  /\ r \notin crashed /\ Cardinality(crashed) < MaxCrashes
  /\ Cardinality(Alive) > 1
  /\ crashed' = crashed \cup {r}
  /\ flight'  = [flight EXCEPT ![r] = {}]
  /\ UNCHANGED <<key, msgs, views, epoch, log, answered, lost>>

\* Leases are Views.tla's: here a member is removed when it has crashed.
NewView ==
  /\ views[Len(views)] \cap crashed # {}
  /\ views' = Append(views, views[Len(views)] \ crashed)
  /\ UNCHANGED <<key, flight, msgs, epoch, crashed, log, answered, lost>>

\* r enters the next view.  Every update in flight is sent again in it; an RMW,
\* or a replay, gathers its acknowledgements from none.
EnterView(r) ==
  /\ r \notin crashed /\ epoch[r] < Len(views)
  /\ LET e     == epoch[r] + 1
         peers == views[e] \ {r}
         kept  == {IF (u.kind = "write" /\ ~u.replay) \/ Without("KeepRMWAcks")
                   THEN u ELSE [u EXCEPT !.acks = {}] : u \in flight[r]}
     IN  /\ epoch'  = [epoch EXCEPT ![r] = e]
         /\ flight' = [flight EXCEPT ![r] = kept]
         /\ msgs'   = msgs \cup {INV(r, u, e) :
                         u \in {x \in kept : ~(peers \subseteq x.acks)}}
  /\ UNCHANGED <<key, views, crashed, log, answered, lost>>

\* An update whose coordinator is not in the view is replayed, sooner or later,
\* by whoever holds it unvalidated.
Replay(r) ==
  /\ ~Without("NeverReplay")
  /\ r \notin crashed /\ ~key[r].valid /\ key[r].finisher \notin Members(r)
  /\ LET u == [ts |-> key[r].ts, replay |-> TRUE, acks |-> {},
               kind |-> (CHOOSE l \in log : l.ts = key[r].ts).kind]
     IN  /\ flight' = [flight EXCEPT ![r] = @ \cup {u}]
         /\ msgs'   = msgs \cup {INV(r, u, epoch[r])}
  /\ key' = [key EXCEPT ![r].finisher = r]
  /\ UNCHANGED <<views, epoch, crashed, log, answered, lost>>

\* Not the protocol: somebody finishes an update of a live member.
ReplayLive(r) ==
  /\ Without("ReplayLive")
  /\ r \notin crashed /\ ~key[r].valid /\ key[r].finisher # r
  /\ LET u == [ts |-> key[r].ts, replay |-> TRUE, acks |-> {},
               kind |-> (CHOOSE l \in log : l.ts = key[r].ts).kind]
     IN  /\ \A x \in flight[r] : x.ts # u.ts
         /\ flight' = [flight EXCEPT ![r] = @ \cup {u}]
         /\ msgs'   = msgs \cup {INV(r, u, epoch[r])}
  /\ UNCHANGED <<key, views, epoch, crashed, log, answered, lost>>

-----------------------------------------------------------------------------
Receive(r, types) == r \notin crashed /\ \E m \in msgs :
  /\ m.type \in types /\ Hears(r, m)
  /\ CASE m.type = "INV"   -> ReceiveINV(r, m)
       [] m.type = "ACK"   -> ReceiveACK(r, m)
       [] m.type = "NACK"  -> ReceiveNACK(r, m)
       [] m.type = "VAL"   -> ReceiveVAL(r, m)
       [] m.type = "STATE" -> ReceiveSTATE(r, m)

Types == {"INV", "ACK", "NACK", "VAL", "STATE"}

Action ==
  \/ \E r \in Replicas : \/ StartWrite(r) \/ StartRMW(r)
                         \/ Receive(r, Types)
                         \/ \E f \in Replicas : AnswerProbe(f, r)
                         \/ Crash(r) \/ EnterView(r) \/ CompleteWithout(r)
                         \/ Replay(r) \/ ReplayLive(r)
  \/ NewView

Readable(k, down) == {r \in Replicas \ down : k[r].valid}

Next ==
  /\ Action
  /\ observed' = observed \cup {key'[r].ts : r \in Readable(key', crashed')}

Spec == Init /\ [][Next]_vars

\* Everything but clients and crashes goes on: no message is withheld for ever.
Observing(A) == A /\ observed' = observed \cup
                       {key'[r].ts : r \in Readable(key', crashed')}
Fairness ==
  /\ \A r \in Replicas :
       /\ \A t \in Types : WF_vars(Observing(Receive(r, {t})))
       /\ WF_vars(Observing(\E f \in Replicas : AnswerProbe(f, r)))
       /\ WF_vars(Observing(EnterView(r) \/ CompleteWithout(r) \/ Replay(r)))
  /\ WF_vars(Observing(NewView))

FairSpec == Spec /\ Fairness

-----------------------------------------------------------------------------
(* What holds.                                                             *)

TimeStamps == {Zero} \cup {u.ts : u \in log}

TypeOK ==
  /\ \A r \in Replicas :
       /\ key[r].ts \in TimeStamps
       /\ key[r].valid \in BOOLEAN
       /\ key[r].finisher \in {0} \cup Replicas
       /\ key[r].valid <=> key[r].finisher = 0
       /\ \A u \in flight[r] : /\ u.ts \in TimeStamps
                               /\ u.acks \subseteq Replicas \ {r}
                               /\ ~u.replay => u.ts \notin lost
       /\ r \notin crashed => r \in Members(r)
       /\ epoch[r] \in 1..Len(views)
  /\ \A m \in msgs : m.ts \in TimeStamps /\ m.epoch \in 1..Len(views)
  /\ crashed \subseteq Replicas
  /\ observed \cup answered \cup lost \subseteq TimeStamps
  \* a time stamp names one update
  /\ \A u, v \in log : u.ts = v.ts => u = v

\* Replicas at which the key can be read hold the same value.
ValidReplicasAgree ==
  \A r, s \in Readable(key, crashed) : key[r].ts = key[s].ts

\* What was read or answered is never undone: whoever reads later reads it or
\* something newer, and whoever writes later writes something newer.
NeverUndone ==
  /\ \A r \in Readable(key, crashed) :
       \A o \in observed \cup answered : o <= key[r].ts
  /\ \A u \in log : u.above

\* An answered update, or a newer one, is in the memory of every replica.
Durable == \A r \in Alive : \A a \in answered : a <= key[r].ts

Effective == {u \in log : u.kind = "rmw" /\ u.ts \in observed \cup answered}

\* An RMW takes effect on the newest value that anybody could have read.
RMWOnNewest == \A u \in Effective :
  /\ u.base \in observed
  /\ \A o \in observed : ~(u.base < o /\ o < u.ts)

OneRMWPerValue == \A u, v \in Effective : u.base = v.base => u = v

\* What its coordinator has given up has never been, and never will be.
LostNeverHappened == lost \cap (observed \cup answered) = {}

WritesNeverAbort == \A u \in log : u.ts \in lost => u.kind = "rmw"

\* Under FairSpec.
EveryUpdateAnswered == \A r \in Replicas :
  flight[r] # {} ~> (flight[r] = {} \/ r \in crashed)
EveryKeyBecomesValid == \A r \in Replicas :
  ~key[r].valid ~> (key[r].valid \/ r \in crashed)
=============================================================================
