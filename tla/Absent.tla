------------------------------- MODULE Absent -------------------------------
(***************************************************************************)
(* The keys of one lane, stored and absent (design: "Absent keys and       *)
(* tombstones"): clocks, `stable', tombstones and when they are dropped,   *)
(* D, read-modify-writes on absent keys, flushes of the whole lane, probes, *)
(* over ordered channels that break and come back, with updates in flight  *)
(* sent again.                                                             *)
(*                                                                         *)
(* A replica is a record, and every action is a function from it to what   *)
(* it becomes and what it sends, as the Go engine is: the operators have   *)
(* the names of the engine's functions where there is one.                 *)
(*                                                                         *)
(* As in Hermes.tla a value is named by its time stamp, and whatever could *)
(* be read counts as read.                                                 *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets, Sequences

CONSTANTS
  N,           \* number of replicas
  Keys,        \* keys of the lane
  Stored,      \* those that are stored everywhere in the initial state
  Deleted,     \* those that have been deleted by replica 1 (see Start)
  MaxWrites,   \* plain writes (set)
  MaxDeletes,  \* attempts of deletes
  MaxIncrs,    \* attempts of RMWs that change a stored value
  MaxAdds,     \* attempts of RMWs on absent keys
  MaxFlushes,  \* flushes of the lane
  MaxBreaks,   \* connections that break
  Story,       \* who starts what: "any", or one of those in Starts
  Mutation     \* the rule that is switched off; "none" for the protocol

VARIABLES
  lane,   \* per replica: its state
  chan,   \* per pair <<sender, receiver>>: the sequence under way
  ends,   \* per pair <<r, s>>: what r thinks of its channel with s
  broken, \* connections broken so far
  log,    \* history: every update started
  hist    \* history: what could be read, was answered, was given up

vars == <<lane, chan, ends, broken, log, hist>>

Replicas == 1..N
Pairs    == {p \in Replicas \X Replicas : p[1] # p[2]}
Peers(r) == Replicas \ {r}

ASSUME Stored \cup Deleted \subseteq Keys /\ Stored \cap Deleted = {}
ASSUME Mutation \in {"none", "AckAnyRMW", "CompleteOutranked",
  "VALNotCompared", "STATENotCompared", "DropAtOnce", "IgnoreD",
  "CountBeforeMark", "AddAtClock", "AddBelowD", "AckAddBelowD",
  "AckValueAtTombstone", "ResendNothing", "NeverProbe",
  "FloorByVersion", "ReadBelowFloor", "ReadAbsentBelowFloor", "FlushKeepsRMWs",
  "AckBelowFloor", "ApplyBelowFloor", "AddBelowFloor", "NeverProbeFlush"}
Without(rule) == Mutation = rule

-----------------------------------------------------------------------------
(* Time stamps: version, writer, step, stepper, as digits (see Hermes.tla). *)

TS(version, writer, step, stepper) ==
  1000 * version + 100 * writer + 10 * step + stepper
Version(ts)   == ts \div 1000
IsRMW(ts)     == (ts \div 10) % 10 # 0
OneStepUp(ts) == 10 * (ts \div 10 + 1)

Max(a, b) == IF a > b THEN a ELSE b
Least(S)  == CHOOSE x \in S : \A y \in S : x <= y

-----------------------------------------------------------------------------
(* A replica.                                                              *)

NotStored == [state |-> "none", ts |-> 0, tomb |-> FALSE, onAbsent |-> FALSE,
              finisher |-> 0]
Invalid(ts, tomb, onAbsent, finisher) ==
  [state |-> "invalid", ts |-> ts, tomb |-> tomb, onAbsent |-> onAbsent,
   finisher |-> finisher]
Valid(ts, tomb) ==
  [state |-> "valid", ts |-> ts, tomb |-> tomb, onAbsent |-> FALSE,
   finisher |-> 0]

(* The initial states, so that bounds need not be spent on reaching them.    *)
(* Nothing: nobody has ever written.  Stored: replica 1 has written version 1 *)
(* and everybody has heard of it.  Deleted: replica 1 has then written and    *)
(* deleted version 2, has all clocks, and has dropped the tombstone; the      *)
(* others have had its VAL, but not each other's clocks since version 1.      *)
Value == 1100
Tomb  == 2111

Start(r) ==
  LET version == IF Stored = {} THEN 0 ELSE 1
      clock   == IF Deleted = {} THEN version ELSE 3
      heard(s) == IF Deleted = {} THEN version
                  ELSE IF r = 1 THEN 2
                  ELSE IF s = 1 THEN 3 ELSE 1
  IN  [clock |-> clock, heard |-> [s \in Replicas |-> heard(s)],
       unmarked |-> {}, unique |-> 0, flight |-> {},
       floor |-> [ts |-> 0, invalid |-> FALSE, finisher |-> 0],
       dropped |-> IF Deleted # {} /\ r = 1 THEN Tomb ELSE 0,
       items |-> [k \in Keys |->
                    IF k \in Stored THEN Valid(Value, FALSE)
                    ELSE IF k \in Deleted /\ r # 1 THEN Valid(Tomb, TRUE)
                    ELSE NotStored],
       events |-> {}]  \* what happened in a step, on its way to hist

Init ==
  /\ lane   = [r \in Replicas |-> Start(r)]
  /\ chan   = [p \in Pairs |-> <<>>]
  /\ ends   = [p \in Pairs |-> "up"]
  /\ broken = 0
  /\ log    = {}
  /\ hist   = {[what |-> "seen", key |-> k, tomb |-> k \notin Stored,
                ts |-> IF k \in Stored THEN Value
                       ELSE IF k \in Deleted THEN Tomb ELSE 0] : k \in Keys}

Event(what, k, ts, tomb) == [what |-> what, key |-> k, ts |-> ts, tomb |-> tomb]

\* Every plain write of at most this version has arrived here from its writer.
Stable(l, r) == Least({l.clock} \cup {l.heard[p] : p \in Peers(r)})

SetItem(l, k, it) == [l EXCEPT !.items[k] = it]

\* A flush is a plain write to all keys at once: what is at or below its time
\* stamp, the lane's floor, is invalid while it is under way, and absent after
\* it.  That holds for keys that are not stored too: one that a flush has
\* overtaken here may be readable elsewhere, where the flush has not come yet.
AllKeys == "all"

Below(ts, floor) == IF Without("FloorByVersion")
                    THEN Version(ts) <= Version(floor.ts)
                    ELSE ts <= floor.ts

Governed(l, k) ==
  IF l.items[k].state = "none" THEN l.floor.invalid
                               ELSE Below(l.items[k].ts, l.floor)

\* What k is at a replica, after the floor has had its say.
Item(l, k) ==
  IF ~Governed(l, k) THEN l.items[k]
  ELSE IF ~l.floor.invalid THEN NotStored
  ELSE IF Without("ReadBelowFloor") /\ l.items[k].state = "valid"
  THEN l.items[k]
  ELSE IF Without("ReadAbsentBelowFloor") /\ l.items[k].state = "none"
  THEN NotStored
  ELSE Invalid(l.floor.ts, TRUE, FALSE, l.floor.finisher)

Drop(l, ts) == [l EXCEPT !.dropped = Max(@, ts),
                         !.clock = Max(@, Version(ts) + 1)]

\* The invalid item of k becomes readable; a tombstone may go at once.
Validate(l, r, k) ==
  LET it   == l.items[k]
      seen == [l EXCEPT !.events = @ \cup {Event("seen", k, it.ts, it.tomb)}]
  IN  IF it.tomb /\ (Stable(l, r) >= Version(it.ts) \/ Without("DropAtOnce"))
      THEN Drop(SetItem(seen, k, NotStored), it.ts)
      ELSE SetItem(seen, k, Valid(it.ts, it.tomb))

\* After every message: tombstones that stable has reached are dropped.
DropTombs(l, r) ==
  LET gone == {k \in Keys : /\ l.items[k].state = "valid" /\ l.items[k].tomb
                            /\ \/ Version(l.items[k].ts) <= Stable(l, r)
                               \/ Without("DropAtOnce")}
      most == CHOOSE ts \in {l.items[k].ts : k \in gone} :
                \A k \in gone : l.items[k].ts <= ts
  IN  IF gone = {} THEN l
      ELSE Drop([l EXCEPT !.items = [k \in Keys |->
                   IF k \in gone THEN NotStored ELSE l.items[k]]], most)

\* What a step of r comes to: its new state, and a sequence of messages to each
\* peer.  Every message carries the clock.  It is lost if the channel is gone.
Lossy(p) == ends[p] = "down" \/ (ends[p] = "up" /\ ends[<<p[2], p[1]>>] = "down")

Step(r, l, out) ==
  /\ lane' = [lane EXCEPT ![r] = [l EXCEPT !.events = {}]]
  /\ hist' = hist \cup l.events
  /\ chan' = [p \in Pairs |->
       IF p[1] = r /\ out[p[2]] # <<>> /\ ~Lossy(p)
       THEN chan[p] \o [i \in 1..Len(out[p[2]]) |->
                          [clock |-> l.clock, body |-> out[p[2]][i]]]
       ELSE chan[p]]

Nothing      == [s \in Replicas |-> <<>>]
To(s, m)     == [Nothing EXCEPT ![s] = <<m>>]
Broadcast(m) == [s \in Replicas |-> <<m>>]

INV(u) == IF u.key = AllKeys THEN [type |-> "FLUSH", ts |-> u.ts]
          ELSE [type |-> "INV", key |-> u.key, ts |-> u.ts, tomb |-> u.tomb,
                onAbsent |-> u.onAbsent]

-----------------------------------------------------------------------------
(* Clients and the coordinator.                                            *)

Newest(k) == CHOOSE e \in {h \in hist : h.key = k /\ h.what # "lost"} :
               \A h \in hist : h.key = k /\ h.what # "lost" => h.ts <= e.ts

\* Something that has an effect of its own.  A refused add leaves a tombstone of
\* its time stamp, which is the absence that was there before: an add of another
\* replica may still take a lower one.
IsUpdate(h) ==
  /\ h.what # "lost"
  /\ ~(h.tomb /\ \E u \in log : u.key = h.key /\ u.ts = h.ts /\ ~u.tomb)

Started(kind) == Cardinality({u \in log : u.kind = kind})

\* With three replicas anybody's updates of any key are too many states.  A story
\* fixes who starts which; all orders of events remain.
Starts(r, k, kind) ==
  CASE Story = "any" -> TRUE
    \* while 1's write of j is under way, k is written and deleted by 3
    [] Story = "late-write" ->
         <<r, k, kind>> \in {<<1, "j", "write">>, <<3, "k", "write">>,
                             <<3, "k", "delete">>}
    \* 2 adds k where 1 has a greater D, and 1 writes it
    [] Story = "refused-add" ->
         <<r, k, kind>> \in {<<2, "k", "add">>, <<1, "k", "write">>}
    \* 1 changes k while 3 deletes it, and 2 adds it again
    [] Story = "late-rmw" ->
         <<r, k, kind>> \in {<<1, "k", "incr">>, <<3, "k", "delete">>,
                             <<2, "k", "add">>}
    \* 1 writes both keys, and 2 adds one of them
    [] Story = "add-among-writes" ->
         <<r, k, kind>> \in {<<1, "j", "write">>, <<1, "k", "write">>,
                             <<2, "k", "add">>}
    \* 1 flushes while 2 writes k, and 3 changes what is stored, or adds it
    [] Story = "flush-3" ->
         <<r, k, kind>> \in {<<1, AllKeys, "flush">>, <<2, "k", "write">>,
                             <<3, "k", "incr">>, <<3, "k", "add">>}
    \* all add the same key
    [] Story = "adds" -> kind = "add" /\ k = "k"

Launch(r, k, ts, kind) ==
  LET l == lane[r]
      u == [key |-> k, ts |-> ts, tomb |-> kind = "delete",
            onAbsent |-> kind = "add", acks |-> {}]
  IN  /\ Step(r, [l EXCEPT
                    !.items[k] = Invalid(ts, u.tomb, u.onAbsent, r),
                    !.clock    = Max(@, Version(ts)),
                    !.unique   = @ + (IF kind = "add" THEN 1 ELSE 0),
                    !.flight   = @ \cup {u}], Broadcast(INV(u)))
      /\ log' = log \cup {[key |-> k, ts |-> ts, kind |-> kind,
                           tomb |-> u.tomb, base |-> Item(l, k).ts,
                           above |-> \A h \in hist :
                             h.key = k /\ IsUpdate(h) => h.ts < ts]}
      /\ UNCHANGED <<ends, broken>>

Write(r, k) ==
  LET it == Item(lane[r], k)
  IN  /\ Started("write") < MaxWrites /\ Starts(r, k, "write")
      /\ ~(it.state = "invalid" /\ it.finisher = r /\ IsRMW(it.ts))
      /\ Launch(r, k, TS(Max(lane[r].clock, Version(it.ts)) + 1, r, 0, 0),
                "write")

RMW(r, k, kind, most) ==
  LET it == Item(lane[r], k)
  IN  /\ Started(kind) < most /\ Starts(r, k, kind)
      /\ it.state = "valid" /\ ~it.tomb
      /\ Launch(r, k, OneStepUp(it.ts) + r, kind)

IsAbsent(it) == it.state = "none" \/ (it.state = "valid" /\ it.tomb)

\* The version above which an add of k at r must be.
AddAbove(r, k) ==
  LET l == lane[r]
  IN  IF Without("AddBelowD") THEN 0
      ELSE Max(Max(Version(l.dropped), Version(Item(l, k).ts)),
               IF Without("AddBelowFloor") THEN 0 ELSE Version(l.floor.ts))

Add(r, k) ==
  LET l == lane[r]
      version == IF Without("AddAtClock") THEN l.clock ELSE Stable(l, r)
  IN  /\ Started("add") < MaxAdds /\ Starts(r, k, "add")
      /\ IsAbsent(Item(l, k))
      /\ version > AddAbove(r, k)
      /\ Launch(r, k, TS(version, r, l.unique + 1, r), "add")

\* Own RMWs below a new floor are given up: they run again on what is above it.
RaiseFloor(l, ts, finisher) ==
  LET gone == {u \in l.flight : IsRMW(u.ts) /\ u.ts < ts}
      g    == [l EXCEPT !.flight = @ \ gone, !.events = @ \cup
                 {Event("lost", u.key, u.ts, u.tomb) : u \in gone}]
  IN  [(IF Without("FlushKeepsRMWs") THEN l ELSE g) EXCEPT
         !.floor = [ts |-> ts, invalid |-> TRUE, finisher |-> finisher]]

\* The flush is over here: what it governs can be read, as absent.
EndFlush(l) ==
  [l EXCEPT !.floor.invalid = FALSE, !.floor.finisher = 0,
     !.events = @ \cup {Event("seen", k, l.floor.ts, TRUE) :
                           k \in {x \in Keys : Governed(l, x)}}]

StartFlush(r) ==
  LET l  == lane[r]
      ts == TS(l.clock + 1, r, 0, 0)
      u  == [key |-> AllKeys, ts |-> ts, tomb |-> TRUE, onAbsent |-> FALSE,
             acks |-> {}]
      raised == RaiseFloor(l, ts, r)
  IN  /\ Started("flush") < MaxFlushes * Cardinality(Keys)
      /\ Starts(r, AllKeys, "flush")
      /\ Step(r, [raised EXCEPT !.clock = @ + 1, !.flight = @ \cup {u}],
              Broadcast(INV(u)))
      /\ log' = log \cup {[key |-> k, ts |-> ts, kind |-> "flush", tomb |-> TRUE,
                           base |-> 0, above |-> \A h \in hist :
                             h.key = k /\ IsUpdate(h) => h.ts < ts] : k \in Keys}
      /\ UNCHANGED <<ends, broken>>

Under(p, type) == \E i \in 1..Len(chan[p]) : chan[p][i].body.type = type

\* Asks the others for their clocks: for an add that has to wait for them, with
\* the clock raised so that theirs are, or for tombstones to be dropped.
AskClocks(r) ==
  LET l    == lane[r]
      adds == {k \in Keys : /\ Started("add") < MaxAdds /\ Starts(r, k, "add")
                            /\ IsAbsent(Item(l, k))
                            /\ Stable(l, r) <= AddAbove(r, k)}
      tombs == {k \in Keys : l.items[k].state = "valid" /\ l.items[k].tomb}
      ask(s) == /\ ends[<<r, s>>] # "down" /\ l.heard[s] <= Stable(l, r)
                /\ ~Under(<<r, s>>, "CLOCKASK") /\ ~Under(<<s, r>>, "CLOCK")
      raised(k) == [l EXCEPT !.clock = Max(@, AddAbove(r, k) + 1)]
      sent == [s \in Replicas |-> IF s # r /\ ask(s)
                 THEN <<[type |-> "CLOCKASK"]>> ELSE <<>>]
  IN  /\ \E s \in Peers(r) : ask(s)
      /\ \/ \E k \in adds : Step(r, raised(k), sent)
         \/ tombs # {} /\ Step(r, l, sent)
      /\ UNCHANGED <<ends, broken, log>>

\* A client of r waits for k: its finisher is asked.  To keep the states few it
\* is asked only when nothing is under way between the two.
Probe(r, k) ==
  LET it   == Item(lane[r], k)
      f    == it.finisher
      flush == it.ts = lane[r].floor.ts
  IN  /\ ~Without("NeverProbe") /\ ~(flush /\ Without("NeverProbeFlush"))
      /\ it.state = "invalid" /\ f # r /\ ends[<<r, f>>] # "down"
      /\ chan[<<r, f>>] = <<>> /\ chan[<<f, r>>] = <<>>
      /\ Step(r, lane[r], To(f,
           IF flush THEN [type |-> "ASKFLUSH", ts |-> it.ts]
           ELSE [type |-> "PROBE", key |-> k, ts |-> it.ts, tomb |-> it.tomb]))
      /\ UNCHANGED <<ends, broken, log>>

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

At(l, b) == LET it == Item(l, b.key)
            IN  it.state = "invalid" /\ it.ts = b.ts /\ it.ts # l.floor.ts

\* The own RMW whose item is overwritten is given up: it runs again later.
GiveUp(l, us) ==
  [l EXCEPT !.flight = @ \ us,
     !.events = @ \cup {Event("lost", u.key, u.ts, u.tomb) : u \in us}]

Apply(l, r, from, b) ==
  LET it   == l.items[b.key]
      gone == {u \in l.flight : u.key = b.key /\ u.ts = it.ts /\ IsRMW(u.ts)}
      out  == IF Without("CompleteOutranked") THEN {} ELSE gone
  IN  SetItem(GiveUp(l, out), b.key, Invalid(b.ts, b.tomb, b.onAbsent, from))

ACK(b)          == [type |-> "ACK", key |-> b.key, ts |-> b.ts]
RefuseAbsent(b) == [type |-> "NACK", key |-> b.key, ts |-> b.ts, absent |-> TRUE]
Refuse(r, b, it) ==
  [type |-> "NACK", key |-> b.key, ts |-> b.ts, absent |-> FALSE,
   newer |-> it.ts, tomb |-> it.tomb, onAbsent |-> it.onAbsent,
   finisher |-> IF it.state = "valid" THEN r ELSE it.finisher]

OnINV(old, r, from, b) ==
  LET l  == [old EXCEPT !.clock = Max(@, Version(b.ts))]
      it == IF Governed(l, b.key) THEN NotStored ELSE l.items[b.key]
      floor == [state |-> IF l.floor.invalid THEN "invalid" ELSE "valid",
                ts |-> l.floor.ts, tomb |-> TRUE, onAbsent |-> FALSE,
                finisher |-> l.floor.finisher]
      applied == Result(Apply(l, r, from, b), To(from, ACK(b)))
      acked   == Result(l, To(from, ACK(b)))
  IN  IF b.ts < l.floor.ts /\ ~Without("ApplyBelowFloor")
      THEN IF ~IsRMW(b.ts) \/ Without("AckBelowFloor") THEN acked
           ELSE Result(l, To(from, Refuse(r, b, floor)))
      ELSE IF it.state = "none"
      THEN IF Version(b.ts) > Version(l.dropped) \/ Without("IgnoreD")
           THEN applied
           ELSE IF b.onAbsent /\ ~Without("AckAddBelowD")
           THEN Result(l, To(from, RefuseAbsent(b)))
           ELSE acked
      ELSE IF b.ts > it.ts THEN applied
      ELSE IF b.ts = it.ts
      THEN IF /\ it.state = "valid" /\ it.tomb /\ ~b.tomb
              /\ ~Without("AckValueAtTombstone")
           THEN Result(l, To(from, RefuseAbsent(b)))
           ELSE acked
      ELSE IF ~IsRMW(b.ts) \/ Without("AckAnyRMW") THEN acked
      ELSE Result(l, To(from, Refuse(r, b, it)))

OnACK(l, r, from, b) ==
  IF Flying(l, b) = {} THEN Result(l, Nothing)
  ELSE LET u    == CHOOSE x \in Flying(l, b) : TRUE
           v    == [u EXCEPT !.acks = @ \cup {from}]
           rest == l.flight \ {u}
           keys == IF b.key = AllKeys THEN Keys ELSE {b.key}
           done == [l EXCEPT !.flight = rest, !.events = @ \cup
                      {Event("answered", k, u.ts, u.tomb) : k \in keys}]
       IN  IF ~(Peers(r) \subseteq v.acks)
           THEN Result([l EXCEPT !.flight = rest \cup {v}], Nothing)
           ELSE IF b.key = AllKeys
           THEN IF l.floor.ts = b.ts
                THEN Result(EndFlush(done),
                            Broadcast([type |-> "FLUSHED", ts |-> b.ts]))
                ELSE Result(done, Nothing)
           ELSE IF At(l, b)
           THEN Result(Validate(done, r, b.key),
                       Broadcast([type |-> "VAL", key |-> b.key, ts |-> b.ts]))
           ELSE Result(done, Nothing)

OnNACK(l, r, from, b) ==
  IF Flying(l, b) = {} THEN Result(l, Nothing)
  ELSE LET g == GiveUp(l, Flying(l, b))
       IN  Result(
             IF ~At(l, b) THEN g
             ELSE IF b.absent
             THEN Validate(SetItem(g, b.key, Invalid(b.ts, TRUE, FALSE, r)),
                           r, b.key)
             ELSE SetItem(g, b.key, Invalid(b.newer, b.tomb, b.onAbsent,
                            IF b.finisher = r THEN from ELSE b.finisher)),
             Nothing)

OnVAL(l, r, b) ==
  IF At(l, b) \/ (Without("VALNotCompared") /\ l.items[b.key].state = "invalid")
  THEN Result(Validate(l, r, b.key), Nothing)
  ELSE Result(l, Nothing)

OnPROBE(l, r, from, b) ==
  LET own    == Item(l, b.key)
      \* A flush that is older than what is asked about, and has not ended here,
      \* has nothing to do with it.
      it     == IF own.state = "invalid" /\ own.ts = l.floor.ts /\ own.ts < b.ts
                THEN NotStored ELSE own
      absent == [type |-> "STATE", key |-> b.key, ts |-> b.ts, absent |-> TRUE]
      newer  == [type |-> "STATE", key |-> b.key, ts |-> b.ts, absent |-> FALSE,
                 newer |-> it.ts, tomb |-> it.tomb]
      reply  ==
        IF it.state = "invalid" THEN <<>>
        ELSE IF it.state = "none"
        THEN IF Version(b.ts) > Version(l.dropped) /\ b.ts > l.floor.ts
             THEN <<>> ELSE <<absent>>
        ELSE IF it.ts < b.ts THEN <<>>
        ELSE IF it.ts > b.ts THEN <<newer>>
        ELSE IF it.tomb /\ ~b.tomb THEN <<absent>>
        ELSE <<[type |-> "VAL", key |-> b.key, ts |-> b.ts]>>
  IN  Result(l, [Nothing EXCEPT ![from] = reply])

OnSTATE(l, r, b) ==
  LET it == Item(l, b.key)
  IN  Result(
        IF ~At(l, b) /\ ~(Without("STATENotCompared") /\ it.state = "invalid")
        THEN l
        ELSE IF it.finisher = r THEN l
        ELSE Validate(SetItem(l, b.key,
               IF b.absent THEN Invalid(it.ts, TRUE, FALSE, 0)
               ELSE Invalid(b.newer, b.tomb, FALSE, 0)), r, b.key),
        Nothing)

OnFLUSH(old, r, from, b) ==
  LET l == [old EXCEPT !.clock = Max(@, Version(b.ts))]
  IN  Result(IF l.floor.ts < b.ts THEN RaiseFloor(l, b.ts, from) ELSE l,
             To(from, [type |-> "ACK", key |-> AllKeys, ts |-> b.ts]))

OnFLUSHED(l, b) == Result(IF l.floor.ts = b.ts /\ l.floor.invalid
                          THEN EndFlush(l) ELSE l, Nothing)

OnASKFLUSH(l, from, b) ==
  Result(l, IF l.floor.ts = b.ts /\ ~l.floor.invalid
            THEN To(from, [type |-> "FLUSHED", ts |-> b.ts]) ELSE Nothing)

On(l, r, from, b) ==
  CASE b.type = "FLUSH"    -> OnFLUSH(l, r, from, b)
    [] b.type = "FLUSHED"  -> OnFLUSHED(l, b)
    [] b.type = "ASKFLUSH" -> OnASKFLUSH(l, from, b)
    [] b.type = "INV"      -> OnINV(l, r, from, b)
    [] b.type = "ACK"      -> OnACK(l, r, from, b)
    [] b.type = "NACK"     -> OnNACK(l, r, from, b)
    [] b.type = "VAL"      -> OnVAL(l, r, b)
    [] b.type = "PROBE"    -> OnPROBE(l, r, from, b)
    [] b.type = "STATE"    -> OnSTATE(l, r, b)
    [] b.type = "CLOCKASK" -> Result(l, To(from, [type |-> "CLOCK"]))
    [] OTHER               -> Result(l, Nothing)   \* CLOCK, MARK

Deliver(s, r) ==
  /\ chan[<<s, r>>] # <<>> /\ ends[<<r, s>>] # "down"
  /\ LET m   == Head(chan[<<s, r>>])
         res == On(Hear(lane[r], s, m), r, s, m.body)
         l   == DropTombs(res.l, r)
     IN  /\ lane' = [lane EXCEPT ![r] = [l EXCEPT !.events = {}]]
         /\ hist' = hist \cup l.events
         /\ chan' = [p \in Pairs |->
              IF p = <<s, r>> THEN Tail(chan[p])
              ELSE IF p[1] = r /\ res.out[p[2]] # <<>> /\ ~Lossy(p)
              THEN Append(chan[p], [clock |-> l.clock,
                                    body  |-> res.out[p[2]][1]])
              ELSE chan[p]]
  /\ UNCHANGED <<ends, broken, log>>

-----------------------------------------------------------------------------
(* Channels.  Each end notices a break for itself; a new channel takes the  *)
(* messages of an end from when that end is up, and delivers at the other   *)
(* from when that is up too.                                                *)

Down(r, s) ==
  LET out == <<r, s>>
      in  == <<s, r>>
      first == ends[in] = "up"
  IN  /\ ends[out] = "up"
      /\ ends[in] = "down" \/ (first /\ broken < MaxBreaks)
      /\ broken' = IF first THEN broken + 1 ELSE broken
      /\ ends'   = [ends EXCEPT ![out] = "down"]
      /\ chan'   = [chan EXCEPT ![in] = <<>>, ![out] = IF first THEN @ ELSE <<>>]
      /\ UNCHANGED <<lane, log, hist>>

\* The updates in flight that s has not acknowledged, one after the other.
RECURSIVE Listed(_)
Listed(us) == IF us = {} THEN <<>>
              ELSE LET u == CHOOSE x \in us : \A y \in us : x.ts >= y.ts
                   IN  <<INV(u)>> \o Listed(us \ {u})

Up(r, s) ==
  LET out == <<r, s>>
      in  == <<s, r>>
      l   == [lane[r] EXCEPT !.unmarked = @ \cup {s}]
      again == IF Without("ResendNothing") THEN {}
               ELSE {u \in l.flight : s \notin u.acks}
      sent == Append(Listed(again), [type |-> "MARK"])
  IN  /\ ends[out] = "down" /\ ends[in] # "up"
      /\ ends' = IF ends[in] = "new"
                 THEN [ends EXCEPT ![out] = "up", ![in] = "up"]
                 ELSE [ends EXCEPT ![out] = "new"]
      /\ lane' = [lane EXCEPT ![r] = l]
      /\ chan' = [chan EXCEPT ![out] = @ \o [i \in 1..Len(sent) |->
                    [clock |-> l.clock, body |-> sent[i]]]]
      /\ UNCHANGED <<broken, log, hist>>

-----------------------------------------------------------------------------
Next ==
  \/ \E r \in Replicas :
       \/ \E k \in Keys : \/ Write(r, k)
                          \/ RMW(r, k, "delete", MaxDeletes)
                          \/ RMW(r, k, "incr", MaxIncrs)
                          \/ Add(r, k)
                          \/ Probe(r, k)
       \/ AskClocks(r) \/ StartFlush(r)
       \/ \E s \in Peers(r) : Deliver(s, r) \/ Down(r, s) \/ Up(r, s)

Spec == Init /\ [][Next]_vars

\* Clients and breaks have no fairness.
Fairness == \A r \in Replicas :
  /\ WF_vars(AskClocks(r))
  /\ \A k \in Keys : WF_vars(Probe(r, k))
  /\ \A s \in Peers(r) : /\ WF_vars(Deliver(s, r)) /\ WF_vars(Up(r, s))
                         /\ WF_vars(Down(r, s) /\ ends[<<s, r>>] = "down")
FairSpec == Spec /\ Fairness

-----------------------------------------------------------------------------
(* What holds.                                                             *)

Happened(k) == {h \in hist : h.key = k /\ h.what # "lost"}

TypeOK ==
  /\ \A r \in Replicas :
       LET l == lane[r]
       IN  /\ \A k \in Keys :
                /\ l.items[k].state \in {"none", "valid", "invalid"}
                /\ l.items[k].state = "none" => l.items[k] = NotStored
                /\ l.items[k].state = "invalid" <=> l.items[k].finisher # 0
           /\ \A s \in Peers(r) : l.heard[s] <= l.clock
           /\ \A u \in l.flight : \E x \in log :
                x.key \in {u.key} \cup (IF u.key = AllKeys THEN Keys ELSE {})
                /\ x.ts = u.ts
           /\ l.floor.invalid <=> l.floor.finisher # 0
  \* a time stamp names one update of a key
  /\ \A u, v \in log : u.key = v.key /\ u.ts = v.ts => u = v

\* Whoever can read a key reads the newest that was ever read or answered: no
\* deleted value comes back, no answered update is lost, replicas agree.
ReadsTheNewest == \A r \in Replicas : \A k \in Keys :
  LET it == Item(lane[r], k)
      newest == Newest(k)
  IN  it.state # "invalid" =>
        IF IsAbsent(it) THEN newest.tomb ELSE ~newest.tomb /\ it.ts = newest.ts

\* An update begins above all updates that were read or answered before it.
BeginsAbove == \A u \in log : u.above

Effective == {u \in log : /\ u.kind \notin {"write", "flush"}
                          /\ \E h \in Happened(u.key) : /\ h.ts = u.ts
                                                        /\ h.tomb = u.tomb}

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
  /\ Event("answered", h.key, h.ts, h.tomb) \notin hist
  /\ ~h.tomb => Event("seen", h.key, h.ts, FALSE) \notin hist

\* The reason why the rest holds.  Not in the mutated configurations, which
\* shall show the harm.
DroppedWhenStable == \A r \in Replicas :
  Version(lane[r].dropped) <= Stable(lane[r], r)

\* A step in which the time stamp of a key falls: the item's, or, where none is
\* stored, the version that D speaks for.
StampsNeverFall == [][\A r \in Replicas : \A k \in Keys :
  LET old == lane[r].items[k]
      new == lane'[r].items[k]
  IN  /\ new.state # "none" =>
           IF old.state = "none" THEN Version(new.ts) > Version(lane[r].dropped)
                                 ELSE new.ts >= old.ts
      /\ lane'[r].dropped >= lane[r].dropped]_vars

EveryUpdateAnswered == \A r \in Replicas :
  lane[r].flight # {} ~> lane[r].flight = {}
EveryKeyBecomesValid == \A r \in Replicas : \A k \in Keys :
  Item(lane[r], k).state = "invalid" ~> Item(lane[r], k).state # "invalid"
=============================================================================
