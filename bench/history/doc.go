// Package history records what clients of a memcached asked for and were answered, and judges whether it is
// linearizable: whether for every key there is an order of the operations, each at one moment between its call and
// its return, in which a single memcached would have given the same answers.
//
// It is not a client and not a load generator: somebody else performs operations, and tells a History when each one
// was called and what it returned. It knows no sockets and no clocks, so that the same recorder and the same model judge
// a simulation in virtual time, a live group behind sockets, and a group that is being broken on purpose. It imports nothing of
// hermesd.
//
//	h := history.New(nil)
//	id := h.Call(client, history.Input{Kind: history.Set, Key: "k", Value: "1"}) // before the request can take effect
//	...
//	h.Return(id, history.Output{Status: history.Stored})                         // after the answer is known
//	...
//	err := h.Check(time.Minute) // *Violation, *Undecided or nil
//
// What is promised is per key, so each key is checked by itself. An operation without an answer (no Return, or Status
// Unknown: a timeout, a lost connection, a SERVER_ERROR) may take effect at any moment after its call, or never. (Never is
// the same as after everything else, where nobody sees it.)
//
// The model is memcached's (file model.go), with these limits, for whoever writes a workload:
//
//   - Items expire at once (Input.Expired) or not before the end of the history. No other expiry, and no eviction.
//   - The unique of a cas must come from an earlier answer, not be made up: a unique that nobody has seen yet counts as no match.
//   - Values are small: nothing here is too large, save where the answer says so.
//   - Where values written are all different, a violation is found with fewer operations, and sooner.
//
// The checker is github.com/anishathalye/porcupine. Its memory grows with the square of the number of operations on one
// key: up to some 20,000 are comfortable. Operations without an answer that could have changed something make it slow:
// a few dozen on a key are comfortable.
package history
