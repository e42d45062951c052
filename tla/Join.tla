-------------------------------- MODULE Join --------------------------------
(***************************************************************************)
(* The keys of a lane while views change: members crash and are removed,   *)
(* what they have left is replayed, their numbers are given out again, and *)
(* newcomers with empty tables catch up while keys are written, deleted    *)
(* and their tombstones dropped (design: "Absent keys and tombstones",     *)
(* "Joining").                                                             *)
(*                                                                         *)
(* The form is Absent.tla's: a replica is a record, a step a function of   *)
(* it, with the engine's names.  Channels are ordered and do not break.    *)
(* Every message carries its sender's epoch; older ones are void, newer    *)
(* ones wait.  That a member is removed only when it answers nothing any   *)
(* more is Views.tla's: here it has crashed.                               *)
(*                                                                         *)
(* An update is named by its time stamp and the incarnation that made it:  *)
(* the protocol compares time stamps only.                                 *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets, Sequences

CONSTANTS
  N,           \* numbers of replicas
  Begin,       \* those that are in the first view; others may join
  Keys,        \* keys of the lane
  Stored,      \* those that are stored everywhere in the initial state
  Deleted,     \* those that have been deleted by replica 1 (see Start)
  MaxWrites,   \* plain writes (set)
  MaxDeletes,  \* attempts of deletes
  MaxIncrs,    \* attempts of RMWs that change a stored value
  MaxAdds,     \* attempts of RMWs on absent keys
  MaxCrashes,  \* members that crash
  MaxViews,    \* views, the first one included
  Mortal,      \* those that may crash
  Story,       \* who starts what: "any", or one of those in Starts
  Goal,        \* what a configuration is to reach; "none" for nothing
  Mutation     \* the rule that is switched off; "none" for the protocol

VARIABLES
  lane,    \* per replica: its state
  chan,    \* per pair <<sender, receiver>>: the sequence under way
  views,   \* the views that are committed
  down,    \* numbers that have no process
  crashes, \* so far
  log,     \* history: every update started
  hist     \* history: what could be read, was answered, was given up

vars == <<lane, chan, views, down, crashes, log, hist>>

Replicas == 1..N
Pairs    == {p \in Replicas \X Replicas : p[1] # p[2]}

ASSUME Begin \subseteq Replicas /\ 1 \in Begin
ASSUME Stored \cup Deleted \subseteq Keys /\ Stored \cap Deleted = {}
ASSUME Mutation \in {"none", "ServeEarly", "JoinerDrops", "DAtOnce",
  "KeepRMWAcks", "ReplayLive", "NumberTooSoon", "DropNewer", "AckAnyReplay",
  "AckReplayBelowD", "CountBeforeMark", "AckValueAtTombstone", "NeverReplay",
  "StreamValidOnly", "StreamNoTombs"}
Without(rule) == Mutation = rule

-----------------------------------------------------------------------------
(* Time stamps: version, writer, step, stepper, as digits (see Hermes.tla). *)

TS(version, writer, step, stepper) ==
  1000 * version + 100 * writer + 10 * step + stepper
Version(ts)   == ts \div 1000
IsRMW(ts)     == (ts \div 10) % 10 # 0
OneStepUp(ts) == 10 * (ts \div 10 + 1)
Coordinator(ts) == IF IsRMW(ts) THEN ts % 10 ELSE (ts \div 100) % 10

Max(a, b) == IF a > b THEN a ELSE b
Least(S)  == CHOOSE x \in S : \A y \in S : x <= y

-----------------------------------------------------------------------------
(* A replica.                                                              *)

NotStored == [state |-> "none", ts |-> 0, inc |-> 0, tomb |-> FALSE,
              onAbsent |-> FALSE, finisher |-> 0]
\* What u says of a key: an update, an item, or a message.
Invalid(u, finisher) ==
  [state |-> "invalid", ts |-> u.ts, inc |-> u.inc, tomb |-> u.tomb,
   onAbsent |-> u.onAbsent, finisher |-> finisher]
Valid(u) ==
  [state |-> "valid", ts |-> u.ts, inc |-> u.inc, tomb |-> u.tomb,
   onAbsent |-> FALSE, finisher |-> 0]
What(ts, inc, tomb, onAbsent) ==
  [ts |-> ts, inc |-> inc, tomb |-> tomb, onAbsent |-> onAbsent]
Tombstone(u) == What(u.ts, u.inc, TRUE, FALSE)

Empty(inc) ==
  [inc |-> inc, epoch |-> 0, clock |-> 0, heard |-> [s \in Replicas |-> 0],
   unmarked |-> {}, flight |-> {}, dropped |-> 0,
   items |-> [k \in Keys |-> NotStored],
   streamer |-> 0, got |-> {}, whole |-> FALSE, due |-> 0, caughtUp |-> FALSE,
   events |-> {}]  \* what happened in a step, on its way to hist

\* Initial states as in Absent.tla.  Stored: replica 1 has written version 1.
\* Deleted: replica 1 has then written and deleted version 2, has all clocks and
\* has dropped the tombstone; the others have not.
Value == What(1100, 0, FALSE, FALSE)
Tomb  == What(2111, 0, TRUE, FALSE)

Start(r) ==
  LET version == IF Stored = {} THEN 0 ELSE 1
      clock   == IF Deleted = {} THEN version ELSE 3
      heard(s) == IF Deleted = {} THEN version
                  ELSE IF r = 1 THEN 2
                  ELSE IF s = 1 THEN 3 ELSE 1
  IN  [Empty(0) EXCEPT
         !.epoch = 1, !.clock = clock, !.caughtUp = TRUE,
         !.heard = [s \in Replicas |-> IF s \in Begin THEN heard(s) ELSE 0],
         !.dropped = IF Deleted # {} /\ r = 1 THEN Tomb.ts ELSE 0,
         !.items = [k \in Keys |->
                      IF k \in Stored THEN Valid(Value)
                      ELSE IF k \in Deleted /\ r # 1 THEN Valid(Tomb)
                      ELSE NotStored]]

Init ==
  /\ lane    = [r \in Replicas |-> IF r \in Begin THEN Start(r) ELSE Empty(0)]
  /\ chan    = [p \in Pairs |-> <<>>]
  /\ views   = <<[members |-> Begin, serving |-> Begin,
                  inc |-> [r \in Replicas |-> 0]]>>
  /\ down    = Replicas \ Begin
  /\ crashes = 0
  /\ log     = {}
  /\ hist    = {[what |-> "seen", key |-> k, tomb |-> k \notin Stored,
                 inc |-> 0, ts |-> IF k \in Stored THEN Value.ts
                       ELSE IF k \in Deleted THEN Tomb.ts ELSE 0] : k \in Keys}

Event(what, k, u) ==
  [what |-> what, key |-> k, ts |-> u.ts, inc |-> u.inc, tomb |-> u.tomb]

Last        == Len(views)
Now         == views[Last]
Members(l)  == IF l.epoch = 0 THEN {} ELSE views[l.epoch].members
Serves(l, r) == l.epoch # 0 /\ r \in views[l.epoch].serving
Peers(l, r) == Members(l) \ {r}

\* Every plain write of at most this version has arrived here from its writer.
Stable(l, r) == Least({l.clock} \cup {l.heard[p] : p \in Peers(l, r)})

SetItem(l, k, it) == [l EXCEPT !.items[k] = it]

Drop(l, ts) == [l EXCEPT !.dropped = Max(@, ts),
                         !.clock = Max(@, Version(ts) + 1)]

\* A member that catches up drops nothing.
MayDrop(l, r) == Serves(l, r) \/ Without("JoinerDrops")

Replays(l, k, ts) == {u \in l.flight : u.key = k /\ u.ts = ts /\ u.replay}

\* The invalid item of k becomes readable; a tombstone may go at once.
Validate(l, r, k) ==
  LET it   == l.items[k]
      seen == [l EXCEPT !.events = @ \cup {Event("seen", k, it)},
                        !.flight = @ \ Replays(l, k, it.ts)]
  IN  IF it.tomb /\ MayDrop(l, r) /\ Stable(l, r) >= Version(it.ts)
      THEN Drop(SetItem(seen, k, NotStored), it.ts)
      ELSE SetItem(seen, k, Valid(it))

DropTombs(l, r) ==
  LET gone == {k \in Keys : /\ l.items[k].state = "valid" /\ l.items[k].tomb
                            /\ Version(l.items[k].ts) <= Stable(l, r)}
      most == CHOOSE ts \in {l.items[k].ts : k \in gone} :
                \A k \in gone : l.items[k].ts <= ts
  IN  IF gone = {} \/ ~MayDrop(l, r) THEN l
      ELSE Drop([l EXCEPT !.items = [k \in Keys |->
                   IF k \in gone THEN NotStored ELSE l.items[k]]], most)

\* After a complete stream D is taken over, once one's own stable has reached it.
TakeD(l, r) ==
  IF l.whole /\ ~l.caughtUp /\ l.unmarked = {} /\ Stable(l, r) >= Version(l.due)
  THEN [l EXCEPT !.caughtUp = TRUE, !.dropped = Max(@, l.due), !.due = 0]
  ELSE l

\* What becomes of r, and what it sends: a sequence of messages to each, void at
\* one that is in a later view already.  What only one that serves could have
\* shown to a client is history.
Become(r, l, out, in) ==
  LET n == DropTombs(TakeD(l, r), r)
  IN  /\ lane' = [lane EXCEPT ![r] = [n EXCEPT !.events = {}]]
      /\ hist' = hist \cup {e \in n.events : e.what # "seen" \/ Serves(n, r)}
      /\ chan' = [p \in Pairs |->
           IF /\ p[1] = r /\ p[2] \in Members(n) \ down /\ out[p[2]] # <<>>
              /\ lane[p[2]].epoch <= n.epoch
           THEN in[p] \o [i \in 1..Len(out[p[2]]) |->
                  [epoch |-> n.epoch, clock |-> n.clock, body |-> out[p[2]][i]]]
           ELSE in[p]]

Step(r, l, out) == Become(r, l, out, chan)

Nothing      == [s \in Replicas |-> <<>>]
To(s, m)     == [Nothing EXCEPT ![s] = <<m>>]
Broadcast(m) == [s \in Replicas |-> <<m>>]

INV(u) == [type |-> "INV", key |-> u.key, ts |-> u.ts, inc |-> u.inc,
           tomb |-> u.tomb, onAbsent |-> u.onAbsent, replay |-> u.replay]

-----------------------------------------------------------------------------
(* Clients and the coordinator.                                            *)

Newest(k) == CHOOSE e \in {h \in hist : h.key = k /\ h.what # "lost"} :
               \A h \in hist : h.key = k /\ h.what # "lost" => h.ts <= e.ts

\* Something that has an effect of its own: not the tombstone that a refused
\* add or replay leaves, which is the absence that was there before.
IsUpdate(h) ==
  /\ h.what # "lost"
  /\ ~(h.tomb /\ \E u \in log : u.key = h.key /\ u.ts = h.ts
                                /\ u.inc = h.inc /\ ~u.tomb)

Started(kind) == Cardinality({u \in log : u.kind = kind})

Starts(r, k, kind) ==
  CASE Story = "any" -> TRUE
    \* 3 has been told that j is not stored; 2 writes it, and then 1 writes and
    \* deletes k
    [] Story = "delete-and-write" ->
         /\ lane[r].epoch = 2
         /\ IF r = 2 THEN "j" \in lane[3].got
                     ELSE lane[1].items["j"].state # "none"
         /\ <<r, k, kind>> \in {<<1, "k", "write">>, <<1, "k", "delete">>,
                                <<2, "j", "write">>}
    \* 2 writes k, and 1 deletes what it has
    [] Story = "write-delete" ->
         <<r, kind>> \in {<<2, "write">>, <<1, "delete">>}
    \* 3 crashes with an RMW under way, and its number begins another
    [] Story = "again" -> r = 3 /\ (lane[r].inc = 0 => lane[r].epoch = 1)
    \* RMWs of 1 and of the number that is given out again
    [] Story = "rmws-1-3" -> r \in {1, 3}
    [] Story = "by-2" -> r = 2
    [] Story = "by-3" -> r = 3
    [] Story = "by-1" -> r = 1

Launch(r, k, ts, kind) ==
  LET l == lane[r]
      u == [key |-> k, ts |-> ts, inc |-> l.inc, tomb |-> kind = "delete",
            onAbsent |-> kind = "add", replay |-> FALSE, acks |-> {}]
      alone == Peers(l, r) = {}
      n == [l EXCEPT !.items[k] = Invalid(u, r), !.clock = Max(@, Version(ts)),
                     !.flight = IF alone THEN @ ELSE @ \cup {u},
                     !.events = IF alone THEN {Event("answered", k, u)} ELSE {}]
  IN  /\ Step(r, IF alone THEN Validate(n, r, k) ELSE n, Broadcast(INV(u)))
      /\ log' = log \cup {[key |-> k, ts |-> ts, kind |-> kind, inc |-> l.inc,
                           tomb |-> u.tomb, base |-> l.items[k].ts,
                           above |-> \A h \in hist :
                             h.key = k /\ IsUpdate(h) => h.ts < ts]}
      /\ UNCHANGED <<views, down, crashes>>

Coordinates(r) == r \notin down /\ Serves(lane[r], r)

Write(r, k) ==
  LET it == lane[r].items[k]
  IN  /\ Coordinates(r) /\ Started("write") < MaxWrites /\ Starts(r, k, "write")
      /\ ~(it.state = "invalid" /\ it.finisher = r /\ IsRMW(it.ts))
      /\ Launch(r, k, TS(Max(lane[r].clock, Version(it.ts)) + 1, r, 0, 0),
                "write")

RMW(r, k, kind, most) ==
  LET it == lane[r].items[k]
  IN  /\ Coordinates(r) /\ Started(kind) < most /\ Starts(r, k, kind)
      /\ it.state = "valid" /\ ~it.tomb
      /\ Launch(r, k, OneStepUp(it.ts) + r, kind)

IsAbsent(it) == it.state = "none" \/ (it.state = "valid" /\ it.tomb)
Floor(r, k)  == Max(Version(lane[r].dropped), Version(lane[r].items[k].ts))

\* The counter that tells adds apart survives restarts.
Unique(r) == Cardinality({u \in log : u.kind = "add" /\ u.ts % 10 = r}) + 1

Add(r, k) ==
  LET l == lane[r]
  IN  /\ Coordinates(r) /\ Started("add") < MaxAdds /\ Starts(r, k, "add")
      /\ IsAbsent(l.items[k])
      /\ Stable(l, r) > Floor(r, k)
      /\ Launch(r, k, TS(Stable(l, r), r, Unique(r), r), "add")

\* An add that must wait for clocks raises one's own.
WaitsToAdd(r) == {k \in Keys : /\ Coordinates(r) /\ Started("add") < MaxAdds
                               /\ Starts(r, k, "add")
                               /\ IsAbsent(lane[r].items[k])
                               /\ Stable(lane[r], r) <= Floor(r, k)}
Raise(r) == \E k \in WaitsToAdd(r) :
  /\ lane[r].clock <= Floor(r, k)
  /\ Step(r, [lane[r] EXCEPT !.clock = Floor(r, k) + 1], Nothing)
  /\ UNCHANGED <<views, down, crashes, log>>

\* Clocks are told where somebody waits for them: to drop a tombstone, to take
\* over D, to add.  (Asking for them is in Absent.tla.)
NeedsClocks(r) ==
  LET l == lane[r]
  IN  r \notin down /\ l.epoch # 0 /\
      \/ \E k \in Keys : l.items[k].state = "valid" /\ l.items[k].tomb
      \/ l.whole /\ ~l.caughtUp
      \/ WaitsToAdd(r) # {}

TellClock(r, s) ==
  LET l == lane[r]
  IN  /\ r \notin down /\ s \notin down /\ s \in Peers(l, r)
      /\ l.epoch = lane[s].epoch /\ chan[<<r, s>>] = <<>>
      /\ \/ NeedsClocks(s) /\ lane[s].heard[r] < l.clock
                           /\ lane[s].heard[r] <= Stable(lane[s], s)
         \/ lane[s].clock < l.clock /\ \E x \in Replicas : NeedsClocks(x)
      /\ Step(r, l, To(s, [type |-> "CLOCK"]))
      /\ UNCHANGED <<views, down, crashes, log>>

\* A client of r waits for k: its finisher is asked, when nothing else is under
\* way between the two.
Probe(r, k) ==
  LET it == lane[r].items[k]
      f  == it.finisher
  IN  /\ r \notin down
      /\ it.state = "invalid" /\ f # r /\ f \in Members(lane[r]) \ down
      /\ lane[f].epoch = lane[r].epoch
      /\ chan[<<r, f>>] = <<>> /\ chan[<<f, r>>] = <<>>
      /\ Step(r, lane[r], To(f, [type |-> "PROBE", key |-> k, ts |-> it.ts,
                                 tomb |-> it.tomb]))
      /\ UNCHANGED <<views, down, crashes, log>>

-----------------------------------------------------------------------------
(* Receiving: each operator gives [l |-> state, out |-> messages].         *)

Result(l, out) == [l |-> l, out |-> out]

Hear(l, from, m) ==
  LET marked == IF m.body.type = "MARK" THEN l.unmarked \ {from}
                                        ELSE l.unmarked
      counts == from \notin marked \/ Without("CountBeforeMark")
  IN  [l EXCEPT !.clock = Max(@, m.clock), !.unmarked = marked,
         !.heard[from] = IF counts THEN Max(@, m.clock) ELSE @]

Flying(l, b) == {u \in l.flight : u.key = b.key /\ u.ts = b.ts}
At(l, b) == l.items[b.key].state = "invalid" /\ l.items[b.key].ts = b.ts

\* Own RMWs are given up, to run again later, and replays for good.
GiveUp(l, us) ==
  [l EXCEPT !.flight = @ \ us,
     !.events = @ \cup {Event("lost", u.key, u) : u \in {x \in us : ~x.replay}}]

Outrank(l, k) ==
  GiveUp(l, {u \in l.flight : /\ u.key = k /\ u.ts = l.items[k].ts
                              /\ IsRMW(u.ts) \/ u.replay})

Apply(l, from, b) == SetItem(Outrank(l, b.key), b.key, Invalid(b, from))

ACK(b)          == [type |-> "ACK", key |-> b.key, ts |-> b.ts]
RefuseAbsent(b) == [type |-> "NACK", key |-> b.key, ts |-> b.ts, absent |-> TRUE]
Refuse(r, b, it) ==
  [type |-> "NACK", key |-> b.key, ts |-> b.ts, absent |-> FALSE,
   newer |-> it, finisher |-> IF it.state = "valid" THEN r ELSE it.finisher]

\* D as it counts: none at one that has not caught up.
D(l) == IF l.caughtUp \/ Without("DAtOnce") \/ Without("JoinerDrops")
        THEN l.dropped ELSE 0

OnINV(old, r, from, b) ==
  LET l  == [old EXCEPT !.clock = Max(@, Version(b.ts))]
      it == l.items[b.key]
      applied == Result(Apply(l, from, b), To(from, ACK(b)))
      acked   == Result(l, To(from, ACK(b)))
      absent  == Result(l, To(from, RefuseAbsent(b)))
  IN  IF it.state = "none"
      THEN IF Version(b.ts) > Version(D(l)) THEN applied
           ELSE IF b.replay
           THEN IF Without("AckReplayBelowD") THEN acked ELSE absent
           ELSE IF b.onAbsent THEN absent ELSE acked
      ELSE IF b.ts > it.ts THEN applied
      ELSE IF b.ts = it.ts
      THEN IF /\ it.state = "valid" /\ it.tomb /\ ~b.tomb
              /\ ~Without("AckValueAtTombstone")
           THEN absent ELSE acked
      ELSE IF IF b.replay THEN Without("AckAnyReplay") ELSE ~IsRMW(b.ts)
      THEN acked
      ELSE Result(l, To(from, Refuse(r, b, it)))

\* u has all its acknowledgements.
Completed(l, r, u) ==
  LET rest == [l EXCEPT !.flight = {x \in @ : x.key # u.key \/ x.ts # u.ts},
                 !.events = IF u.replay THEN @
                            ELSE @ \cup {Event("answered", u.key, u)}]
  IN  IF At(l, u)
      THEN Result(Validate(rest, r, u.key),
                  Broadcast([type |-> "VAL", key |-> u.key, ts |-> u.ts]))
      ELSE Result(rest, Nothing)

OnACK(l, r, from, b) ==
  IF Flying(l, b) = {} THEN Result(l, Nothing)
  ELSE LET u == CHOOSE x \in Flying(l, b) : TRUE
           v == [u EXCEPT !.acks = @ \cup {from}]
       IN  IF Peers(l, r) \subseteq v.acks THEN Completed(l, r, v)
           ELSE Result([l EXCEPT !.flight = (@ \ {u}) \cup {v}], Nothing)

OnNACK(l, r, from, b) ==
  IF Flying(l, b) = {} THEN Result(l, Nothing)
  ELSE LET g == GiveUp(l, Flying(l, b))
       IN  Result(
             IF ~At(l, b) THEN g
             ELSE IF b.absent
             THEN Validate(SetItem(g, b.key,
                    Invalid(Tombstone(l.items[b.key]), r)), r, b.key)
             ELSE SetItem(g, b.key, Invalid(b.newer,
                    IF b.finisher = r THEN from ELSE b.finisher)),
             Nothing)

OnVAL(l, r, b) ==
  Result(IF At(l, b) THEN Validate(l, r, b.key) ELSE l, Nothing)

OnPROBE(l, r, from, b) ==
  LET it     == l.items[b.key]
      state(absent) == [type |-> "STATE", key |-> b.key, ts |-> b.ts,
                        absent |-> absent, newer |-> it]
      reply  ==
        IF it.state = "invalid" THEN <<>>
        ELSE IF it.state = "none"
        THEN IF Version(b.ts) > Version(D(l)) THEN <<>> ELSE <<state(TRUE)>>
        ELSE IF it.ts < b.ts THEN <<>>
        ELSE IF it.ts > b.ts THEN <<state(FALSE)>>
        ELSE IF it.tomb /\ ~b.tomb THEN <<state(TRUE)>>
        ELSE <<[type |-> "VAL", key |-> b.key, ts |-> b.ts]>>
  IN  Result(l, [Nothing EXCEPT ![from] = reply])

OnSTATE(l, r, b) ==
  Result(
    IF ~At(l, b) \/ l.items[b.key].finisher = r THEN l
    ELSE Validate(SetItem(l, b.key,
           Invalid(IF b.absent THEN Tombstone(l.items[b.key]) ELSE b.newer, 0)),
           r, b.key),
    Nothing)

-----------------------------------------------------------------------------
(* Catching up: the joiner asks for one key after the other, and at last    *)
(* for D.                                                                  *)

Catching(l, r) == l.epoch # 0 /\ ~Serves(l, r)

Under(p, types) == \E i \in 1..Len(chan[p]) : chan[p][i].body.type \in types

\* A new streamer starts over.
Fetch(r, s) ==
  LET l   == lane[r]
      new == l.streamer # s
      n   == [l EXCEPT !.streamer = s, !.got = IF new THEN {} ELSE @]
      keys == Keys \ n.got
      ask(k) == Step(r, n, To(s, [type |-> "FETCH", key |-> k]))
  IN  /\ r \notin down /\ Catching(l, r) /\ ~l.whole
      /\ s \in views[l.epoch].serving \ down
      /\ l.streamer \in Members(l) => ~new
      /\ ~Under(<<r, s>>, {"FETCH"}) /\ ~Under(<<s, r>>, {"ENTRY", "FETCHED"})
      /\ IF keys = {} THEN ask("") ELSE \E k \in keys : ask(k)
      /\ UNCHANGED <<views, down, crashes, log>>

OnFETCH(l, from, b) ==
  Result(l, To(from,
    IF b.key = "" THEN [type |-> "FETCHED", ts |-> D(l)]
    ELSE LET it == l.items[b.key]
             left == \/ Without("StreamValidOnly") /\ it.state = "invalid"
                     \/ Without("StreamNoTombs") /\ it.tomb
         IN  [type |-> "ENTRY", key |-> b.key,
              item |-> IF left THEN NotStored ELSE it]))

OnENTRY(old, r, from, b) ==
  LET l  == [old EXCEPT !.got = @ \cup {b.key}]
      it == l.items[b.key]
      e  == b.item
      f  == IF e.finisher = r THEN from ELSE e.finisher
  IN  Result(
        IF from # l.streamer \/ l.whole THEN old
        ELSE IF e.state = "none" THEN l
        ELSE IF e.ts > it.ts \/ (e.ts = it.ts /\ At(l, [key |-> b.key,
                  ts |-> e.ts]) /\ e.state = "valid")
        THEN LET n == SetItem(IF e.ts > it.ts THEN Outrank(l, b.key) ELSE l,
                              b.key, Invalid(e, f))
             IN  IF e.state = "valid" THEN Validate(n, r, b.key) ELSE n
        ELSE l, Nothing)

OnFETCHED(l, r, from, b) ==
  Result(IF from # l.streamer \/ l.whole THEN l
         ELSE [l EXCEPT !.whole = TRUE, !.due = b.ts,
                 !.dropped = IF Without("DAtOnce") THEN Max(@, b.ts) ELSE @],
         Nothing)

On(l, r, from, b) ==
  CASE b.type = "INV"     -> OnINV(l, r, from, b)
    [] b.type = "ACK"     -> OnACK(l, r, from, b)
    [] b.type = "NACK"    -> OnNACK(l, r, from, b)
    [] b.type = "VAL"     -> OnVAL(l, r, b)
    [] b.type = "PROBE"   -> OnPROBE(l, r, from, b)
    [] b.type = "STATE"   -> OnSTATE(l, r, b)
    [] b.type = "FETCH"   -> OnFETCH(l, from, b)
    [] b.type = "ENTRY"   -> OnENTRY(l, r, from, b)
    [] b.type = "FETCHED" -> OnFETCHED(l, r, from, b)
    [] OTHER              -> Result(l, Nothing)   \* CLOCK, MARK

\* A message of a newer epoch stalls its channel.
Deliver(s, r) ==
  /\ r \notin down /\ lane[r].epoch # 0 /\ chan[<<s, r>>] # <<>>
  /\ LET m    == Head(chan[<<s, r>>])
         rest == [chan EXCEPT ![<<s, r>>] = Tail(@)]
     IN  IF m.epoch = lane[r].epoch
         THEN LET res == On(Hear(lane[r], s, m), r, s, m.body)
              IN  Become(r, res.l, res.out, rest)
         ELSE /\ Without("DropNewer")
              /\ chan' = rest
              /\ UNCHANGED <<lane, hist>>
  /\ UNCHANGED <<views, down, crashes, log>>

-----------------------------------------------------------------------------
(* Views.                                                                  *)

\* The updates in us, one after the other.
RECURSIVE Listed(_)
Listed(us) == IF us = {} THEN <<>>
              ELSE LET u == CHOOSE x \in us : \A y \in us : x.ts >= y.ts
                   IN  <<INV(u)>> \o Listed(us \ {u})

\* Member p of view e is the one that it was in view old.  The engine keeps
\* numbers only: the rule when a number is given out again makes that the same.
SameLife(p, old, e) ==
  /\ p \in views[e].members
  /\ old # 0 => \/ p \in views[old].members
                   /\ views[old].inc[p] = views[e].inc[p]
                \/ Without("NumberTooSoon")

\* Every update in flight is sent again, an RMW and a replay as if nobody had
\* acknowledged it.  Whatever is held invalid from somebody who is not in the
\* view is replayed.  MARK follows.
Enter(r, e) ==
  LET l     == lane[r]
      same(p) == SameLife(p, l.epoch, e)
      peers == views[e].members \ {r}
      again(u) == [u EXCEPT !.acks =
                     IF (IsRMW(u.ts) \/ u.replay) /\ ~Without("KeepRMWAcks")
                     THEN {} ELSE {p \in @ : same(p)}]
      orphans == {k \in Keys : /\ l.items[k].state = "invalid"
                               /\ ~same(l.items[k].finisher)
                               /\ ~Without("NeverReplay")}
      replay(k) == LET it == l.items[k]
                   IN  [key |-> k, ts |-> it.ts, inc |-> it.inc,
                        tomb |-> it.tomb, onAbsent |-> it.onAbsent,
                        replay |-> TRUE, acks |-> {}]
      flight == {again(u) : u \in l.flight} \cup {replay(k) : k \in orphans}
      n == [l EXCEPT !.epoch = e, !.unmarked = peers,
              !.heard  = [p \in Replicas |-> IF same(p) THEN @[p] ELSE 0],
              !.items  = [k \in Keys |-> IF k \in orphans
                            THEN [@[k] EXCEPT !.finisher = r] ELSE @[k]],
              !.flight = flight,
              !.streamer = IF same(@) THEN @ ELSE 0,
              !.got      = IF same(l.streamer) THEN @ ELSE {},
              !.events = IF r \notin views[e].serving THEN {}
                         ELSE {Event("seen", k, l.items[k]) : k \in
                               {x \in Keys : l.items[x].state = "valid"}}]
      waiting == {u \in flight : ~(peers \subseteq u.acks)}
      sent == [s \in Replicas |-> Append(
                 Listed({u \in waiting : s \notin u.acks}), [type |-> "MARK"])]
      \* Those that waited only for members that are gone; in one step, since
      \* they are of different keys or all but one have been outranked.
      RECURSIVE Finish(_, _)
      Finish(x, us) ==
        IF us = {} THEN Result(x, sent)
        ELSE LET u    == CHOOSE y \in us : TRUE
                 done == Completed(x, r, u)
                 more == Finish(done.l, us \ {u})
             IN  Result(more.l, [s \in Replicas |->
                                   more.out[s] \o done.out[s]])
      res == Finish(n, flight \ waiting)
  IN  /\ r \notin down /\ l.epoch < e
      /\ r \in views[e].members /\ views[e].inc[r] = l.inc
      /\ Become(r, res.l, res.out, [p \in Pairs |->
           IF p[2] # r THEN chan[p]
           ELSE SelectSeq(chan[p], LAMBDA m : m.epoch >= e)])
      /\ UNCHANGED <<views, down, crashes, log>>

Crash(r) ==
  /\ r \in Mortal \ down /\ crashes < MaxCrashes
  /\ lane[r].epoch # 0 /\ r \in Now.members
  /\ Story = "again" => lane[r].flight # {}
  /\ Now.serving \ (down \cup {r}) # {}
  /\ crashes' = crashes + 1
  /\ down' = down \cup {r}
  /\ lane' = [lane EXCEPT ![r] = [Empty(lane[r].inc) EXCEPT
                                    !.epoch = lane[r].epoch]]
  /\ chan' = [p \in Pairs |-> IF p[2] = r THEN <<>> ELSE chan[p]]
  /\ UNCHANGED <<views, log, hist>>

NewView(members, serving, inc) ==
  /\ Last < MaxViews
  /\ views' = Append(views, [members |-> members, serving |-> serving,
                             inc |-> inc])

Remove ==
  /\ Now.members \cap down # {}
  /\ NewView(Now.members \ down, Now.serving \ down, Now.inc)
  /\ UNCHANGED <<lane, chan, down, crashes, log, hist>>

\* In the present epoch, no update of a member that has left is unvalidated here.
Settled(r) ==
  LET l == lane[r]
  IN  \/ /\ l.epoch = Last
         /\ \A u \in l.flight : ~u.replay
         /\ \A k \in Keys : l.items[k].state = "invalid" =>
              Coordinator(l.items[k].ts) \in Now.members
      \/ Without("NumberTooSoon")

Admit(r) ==
  /\ r \in down \ Now.members
  /\ \A m \in Now.members : m \notin down /\ Settled(m)
  /\ NewView(Now.members \cup {r}, Now.serving,
             [Now.inc EXCEPT ![r] = @ + 1])
  /\ lane' = [lane EXCEPT ![r] = Empty(lane[r].inc + 1)]
  /\ chan' = [p \in Pairs |-> IF p[1] = r THEN <<>> ELSE chan[p]]
  /\ down' = down \ {r}
  /\ UNCHANGED <<crashes, log, hist>>

Serve(r) ==
  /\ r \in Now.members \ (Now.serving \cup down)
  /\ lane[r].epoch = Last
  /\ lane[r].caughtUp \/ Without("ServeEarly")
  /\ NewView(Now.members, Now.serving \cup {r}, Now.inc)
  /\ UNCHANGED <<lane, chan, down, crashes, log, hist>>

\* Not the protocol: somebody finishes an update of a live member.
ReplayLive(r, k) ==
  LET it == lane[r].items[k]
      u  == [key |-> k, ts |-> it.ts, inc |-> it.inc, tomb |-> it.tomb,
             onAbsent |-> it.onAbsent, replay |-> TRUE, acks |-> {}]
  IN  /\ Without("ReplayLive") /\ r \notin down
      /\ it.state = "invalid" /\ it.finisher # r
      /\ \A x \in lane[r].flight : x.key # k \/ x.ts # it.ts
      /\ Step(r, [lane[r] EXCEPT !.flight = @ \cup {u}], Broadcast(INV(u)))
      /\ UNCHANGED <<views, down, crashes, log>>

-----------------------------------------------------------------------------
Next ==
  \/ \E r \in Replicas :
       \/ \E k \in Keys : \/ Write(r, k)
                          \/ RMW(r, k, "delete", MaxDeletes)
                          \/ RMW(r, k, "incr", MaxIncrs)
                          \/ Add(r, k)
                          \/ Probe(r, k)
                          \/ ReplayLive(r, k)
       \/ Raise(r) \/ Crash(r) \/ Admit(r) \/ Serve(r)
       \/ \E s \in Replicas \ {r} : Deliver(s, r) \/ TellClock(r, s) \/ Fetch(r, s)
       \/ \E e \in 1..Last : Enter(r, e)
  \/ Remove

Spec == Init /\ [][Next]_vars

\* Clients and crashes have no fairness.
Fairness ==
  /\ WF_vars(Remove)
  /\ \A r \in Replicas :
       /\ WF_vars(Raise(r)) /\ WF_vars(Admit(r)) /\ WF_vars(Serve(r))
       /\ WF_vars(\E e \in 1..Last : Enter(r, e))
       /\ \A k \in Keys : WF_vars(Probe(r, k))
       /\ \A s \in Replicas \ {r} : /\ WF_vars(Deliver(s, r))
                                    /\ WF_vars(TellClock(r, s))
                                    /\ WF_vars(Fetch(r, s))
FairSpec == Spec /\ Fairness

-----------------------------------------------------------------------------
(* What holds.                                                             *)

Happened(k) == {h \in hist : h.key = k /\ h.what # "lost"}

\* A replica that answers: it serves in its view, and has not been removed.
Answering == {r \in Replicas \ down : Serves(lane[r], r)}
\* One that has caught up could be made serving at any moment.
Ready == {r \in Replicas \ down : lane[r].caughtUp /\ lane[r].epoch = Last}

TypeOK ==
  /\ \A r \in Replicas :
       LET l == lane[r]
       IN  /\ \A k \in Keys :
                /\ l.items[k].state \in {"none", "valid", "invalid"}
                /\ l.items[k].state = "none" => l.items[k] = NotStored
                /\ l.items[k].state = "invalid" <=> l.items[k].finisher # 0
           /\ \A s \in Peers(l, r) : l.heard[s] <= l.clock
           /\ \A u \in l.flight : u.replay \/
                \E x \in log : x.key = u.key /\ x.ts = u.ts /\ x.inc = u.inc
  \* a time stamp names one update of a key that has ever been read
  /\ \A u, v \in log : u.key = v.key /\ u.ts = v.ts /\ u.inc = v.inc => u = v
  /\ \A h, g \in {x \in hist : x.what # "lost"} :
       h.key = g.key /\ h.ts = g.ts => h.inc = g.inc
  \* nor do two incarnations of a number use one in two places at one time
  /\ \A r, s \in Replicas \ down : \A k \in Keys :
       lane[r].items[k].ts = lane[s].items[k].ts =>
         lane[r].items[k].inc = lane[s].items[k].inc

\* Whoever can read a key reads the newest that was ever read or answered: no
\* deleted value comes back, no answered update is lost, replicas agree.
ReadsTheNewest == \A r \in Answering : \A k \in Keys :
  LET it == lane[r].items[k]
      newest == Newest(k)
  IN  it.state # "invalid" =>
        IF IsAbsent(it) THEN newest.tomb
        ELSE ~newest.tomb /\ it.ts = newest.ts /\ it.inc = newest.inc

\* What one that is ready to serve holds valid is no older.  (It may be newer: a
\* replay that it has completed itself, and nobody could read yet.)
ReadyHoldsTheNewest == \A r \in Ready : \A k \in Keys :
  LET it == lane[r].items[k]
      newest == Newest(k)
  IN  it.state # "invalid" =>
        \/ it.ts > newest.ts
        \/ IF IsAbsent(it) THEN newest.tomb
           ELSE ~newest.tomb /\ it.ts = newest.ts /\ it.inc = newest.inc

\* An answered update, or something newer, is at every replica that serves,
\* or is ready to.
Durable == \A r \in Answering \cup Ready : \A h \in hist : h.what = "answered" =>
  LET it == lane[r].items[h.key]
  IN  IF it.state = "none" THEN Version(h.ts) <= Version(lane[r].dropped)
                           ELSE h.ts <= it.ts

BeginsAbove == \A u \in log : u.above

Effective == {u \in log : /\ u.kind # "write"
                          /\ \E h \in Happened(u.key) :
                               h.ts = u.ts /\ h.inc = u.inc /\ h.tomb = u.tomb}

\* An RMW takes effect directly after the newest update that was read or
\* answered: the one that it has read or, on an absent key, one that deleted.
RMWOnNewest == \A u \in Effective :
  LET before == {h \in Happened(u.key) : IsUpdate(h) /\ h.ts < u.ts}
      last   == CHOOSE h \in before : \A x \in before : x.ts <= h.ts
  IN  IF u.kind = "add" THEN last.tomb
                        ELSE last.ts = u.base /\ ~last.tomb

OneRMWPerValue == \A u, v \in Effective :
  u.key = v.key /\ u.base = v.base /\ u.kind # "add" /\ v.kind # "add" => u = v

LostNeverHappened == \A h \in hist : h.what = "lost" =>
  /\ Event("answered", h.key, h) \notin hist
  /\ ~h.tomb => Event("seen", h.key, h) \notin hist

\* To be violated where a goal is set, or the rest would say nothing: a newcomer
\* serves, with D; one of a number that was given out again coordinates.
GoalNotReached ==
  CASE Goal = "served" -> ~\E r \in Answering :
                            lane[r].inc > 0 /\ lane[r].dropped > 0
    [] Goal = "again"  -> ~\E h \in hist : h.inc > 0 /\ h.what = "answered"
    [] Goal = "none"   -> TRUE

\* Under FairSpec.
EveryUpdateAnswered == \A r \in Replicas :
  lane[r].flight # {} ~> lane[r].flight = {}
EveryKeyBecomesValid == \A r \in Replicas : \A k \in Keys :
  lane[r].items[k].state = "invalid" ~> lane[r].items[k].state # "invalid"
JoinerServes == \A r \in Replicas :
  Catching(lane[r], r) /\ r \notin down ~> r \in Answering \/ r \in down
=============================================================================
