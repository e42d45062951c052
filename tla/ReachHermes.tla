----------------------------- MODULE ReachHermes -----------------------------
(***************************************************************************)
(* Hermes.tla, which tells of every state that it reaches what the         *)
(* engine's explorer can tell of its own (TestReachable compares the two). *)
(***************************************************************************)
EXTENDS Hermes, TLC

Shown(r) == IF r \in crashed THEN <<>> ELSE
  <<epoch[r], key[r].ts, key[r].valid, key[r].finisher,
    {<<u.ts, u.replay, u.acks \cap Members(r)>> : u \in flight[r]}>>

\* The engine completes what it can in the step in which it enters a view.
InBetween == \E r \in Alive : \E u \in flight[r] : Peers(r) \subseteq u.acks

\* Not an invariant: it is how TLC is made to print something for each state.
Tell == InBetween \/ PrintT(ToString([r \in Replicas |-> Shown(r)]))
=============================================================================
