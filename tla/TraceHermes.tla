---------------------------- MODULE TraceHermes ----------------------------
(***************************************************************************)
(* Decides whether what hermesd has done is an execution of Hermes.tla.    *)
(*                                                                         *)
(* TraceData.tla holds traces: what three replicas have done with one key, *)
(* step by step, with the state of the key after each step and the         *)
(* messages that it has sent (tla/traces writes that module from what the  *)
(* simulation or a live group has told of).  Each step must be an action   *)
(* of Hermes.tla that leads to that state and sends those messages, and    *)
(* the invariants must hold.  A step determines the action, so a trace is  *)
(* one behaviour; where it is none, TLC stops for a deadlock: Traces[which] *)
(* could not go on with its step pos in the last state that is shown.      *)
(***************************************************************************)
EXTENDS Hermes, TraceData

VARIABLES
  which,  \* the trace
  pos     \* its next step

\* Time stamps with more digits than Hermes.tla has, three for the step: the
\* configuration puts these in the place of those.
TraceTS(version, writer, step, stepper) ==
  100000 * version + 10000 * writer + 10 * step + stepper
TraceVersion(ts)   == ts \div 100000
TraceOneStepUp(ts) == 10 * (ts \div 10 + 1)

Trace == Traces[which]
E     == Trace[pos]

TraceInit == Init /\ which \in DOMAIN Traces /\ pos = 1

-----------------------------------------------------------------------------
(* What a step says of what comes after it.                                *)

\* What the specification has sent anew is what the engine has sent, which may
\* send again what it had sent before.  With no channel open it sends nothing.
SentAsTold == /\ E.sent \subseteq msgs'
              /\ (msgs' \ msgs) \subseteq E.sent \/ E.closed

StateAsTold == key'[E.at] = E.state

AsTold == SentAsTold /\ StateAsTold

InFlight(r, ts)      == \E u \in flight[r] : u.ts = ts
StillInFlight(r, ts) == \E u \in flight'[r] : u.ts = ts

Received(type) == {m \in msgs : /\ m.type = type /\ m.from = E.from
                                /\ m.ts = E.ts /\ Hears(E.at, m)}

-----------------------------------------------------------------------------
(* The steps.                                                              *)

\* The engine takes a version above all that it has seen in the key's lane, which
\* has other keys, and in messages that it has not got yet: it may skip some.
Start ==
  /\ IF E.kind = "write"
     THEN /\ Version(E.ts) > Version(key[E.at].ts)
          /\ E.ts = TS(Version(E.ts), E.at, 0, 0)
          /\ StartWriteAt(E.at, E.ts)
     ELSE StartRMW(E.at) /\ E.ts = RMWTS(E.at, key[E.at].ts)
  /\ AsTold

TakeINV == /\ \E m \in Received("INV") : /\ m.replay = E.replay
                                         /\ ReceiveINV(E.at, m)
           /\ AsTold

\* One that is not counted again changes nothing.
TakeACK ==
  /\ \/ \E m \in Received("ACK") : ReceiveACK(E.at, m)
     \/ /\ ~E.ended
        /\ \E u \in flight[E.at] : u.ts = E.ts /\ E.from \in u.acks
        /\ UNCHANGED vars
  /\ E.ended <=> ~StillInFlight(E.at, E.ts)
  /\ AsTold

TakeNACK == /\ \E m \in Received("NACK") :
                 /\ m.newer = E.newer /\ m.finisher = E.finisher
                 /\ ReceiveNACK(E.at, m)
            /\ AsTold

\* A question about what is valid with just that time stamp is answered by the
\* engine with VAL, which is shorter than STATE and means the same.
TakeVAL == /\ \/ \E m \in Received("VAL") : ReceiveVAL(E.at, m)
              \/ \E m \in Received("STATE") : /\ m.newer = m.ts
                                              /\ ReceiveSTATE(E.at, m)
           /\ AsTold

TakeSTATE == /\ \E m \in Received("STATE") : /\ m.newer = E.newer
                                             /\ ReceiveSTATE(E.at, m)
             /\ AsTold

\* In the specification a question and its answer are one step.  Here the one who
\* has asked may know more by the time that the answer is given, or be in another
\* view: then the answer is void, and must not count when it comes.
StillAsks == /\ E.from \notin crashed /\ epoch[E.from] = epoch[E.at]
             /\ ~key[E.from].valid /\ key[E.from].ts = E.ts
             /\ key[E.from].finisher = E.at
AnswerPROBE ==
  IF StillAsks THEN AnswerProbe(E.at, E.from) /\ AsTold
               ELSE /\ key[E.at].valid /\ E.ts <= key[E.at].ts
                    /\ UNCHANGED vars /\ StateAsTold

SendAgain == InFlight(E.at, E.ts) /\ UNCHANGED vars /\ AsTold

CompleteIt == /\ InFlight(E.at, E.ts) /\ CompleteWithout(E.at)
              /\ ~StillInFlight(E.at, E.ts) /\ AsTold

Answer == E.ts \in answered /\ UNCHANGED vars /\ AsTold

ReplayIt == key[E.at].ts = E.ts /\ Replay(E.at) /\ AsTold

Enter == /\ EnterView(E.at) /\ epoch'[E.at] = E.epoch
         /\ views[E.epoch] = E.members

Shrink == NewView /\ views'[Len(views')] = E.members

Step ==
  CASE E.step = "start"    -> Start
    [] E.step = "INV"      -> TakeINV
    [] E.step = "ACK"      -> TakeACK
    [] E.step = "NACK"     -> TakeNACK
    [] E.step = "VAL"      -> TakeVAL
    [] E.step = "STATE"    -> TakeSTATE
    [] E.step = "PROBE"    -> AnswerPROBE
    [] E.step = "again"    -> SendAgain
    [] E.step = "complete" -> CompleteIt
    [] E.step = "answer"   -> Answer
    [] E.step = "replay"   -> ReplayIt
    [] E.step = "enter"    -> Enter
    [] E.step = "view"     -> Shrink
    [] E.step = "crash"    -> Crash(E.at)

TraceNext ==
  \/ /\ pos <= Len(Trace)
     /\ Observing(Step)
     /\ pos' = pos + 1 /\ UNCHANGED which
  \* The end: not a deadlock.
  \/ pos > Len(Trace) /\ UNCHANGED <<vars, which, pos>>

TraceSpec == TraceInit /\ [][TraceNext]_<<vars, which, pos>>
=============================================================================
