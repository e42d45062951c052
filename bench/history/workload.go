package history

import (
	"fmt"
	"math/rand/v2"
)

// Workload draws the inputs of one client: all commands on a few keys, biased towards those that conflict. Everything
// is drawn from the seed. It is not safe for use by several goroutines.
type Workload struct {
	// FlushWeight is the weight of flush_all among the commands, whose weights add up to about 100; 0: never.
	FlushWeight int

	client  int
	keys    []string
	random  *rand.Rand
	written int
	uniques map[string]uint64 // the last unique that this client saw, by key
}

// NewWorkload returns the workload of a client. Clients that share keys need different numbers: the number is part of the values that
// they write, so that all values differ.
func NewWorkload(client int, seed uint64, keys []string) *Workload {
	return &Workload{client: client, keys: keys, random: rand.New(rand.NewPCG(seed, uint64(client))), uniques: make(map[string]uint64)}
}

// weights of the commands. A command that needs something first (cas: a unique) is replaced by one that gets it.
var weights = [kinds]int{Get: 14, Gets: 10, Gat: 3, Gats: 3, Set: 14, Add: 7, Replace: 5, Append: 5, Prepend: 3, CAS: 10, Incr: 10,
	Decr: 5, Touch: 3, Delete: 8}

// Next returns the client's next input.
func (w *Workload) Next() Input {
	in := Input{Kind: w.drawKind(), Key: w.keys[w.random.IntN(len(w.keys))]}
	if in.Kind == CAS && w.uniques[in.Key] == 0 {
		in.Kind = Gets
	}
	switch in.Kind {
	case Flush:
		in.Key = ""
	case CAS:
		in.CAS = w.uniques[in.Key]
		in.Value, in.Flags, in.Expired = w.drawValue(), w.random.Uint32N(3), w.rarely()
	case Set, Add, Replace:
		in.Value, in.Flags, in.Expired = w.drawValue(), w.random.Uint32N(3), w.rarely()
	case Append, Prepend:
		in.Value = w.drawText()
	case Incr, Decr:
		in.Delta = 1 + w.random.Uint64N(9)
	case Gat, Gats, Touch:
		in.Expired = w.random.IntN(4) == 0
	}
	return in
}

// Observe tells the workload what an input was answered, so that it can use the unique.
func (w *Workload) Observe(in Input, out Output) {
	if out.Status == Hit && out.CAS != 0 {
		w.uniques[in.Key] = out.CAS
	}
}

func (w *Workload) drawKind() Kind {
	total := w.FlushWeight
	for _, weight := range weights {
		total += weight
	}
	n := w.random.IntN(total)
	for kind, weight := range weights {
		if n -= weight; n < 0 {
			return Kind(kind)
		}
	}
	return Flush
}

func (w *Workload) rarely() bool { return w.random.IntN(20) == 0 }

// drawValue returns a number or a text. Numbers are of ten digits, and stay so under the few increments that a test makes: memcached
// pads a number that gets shorter, but not while another connection is still sending it.
func (w *Workload) drawValue() string {
	if w.random.IntN(2) == 0 {
		return w.drawText()
	}
	w.written++
	return fmt.Sprint(5_000_000_000 + uint64(w.client%1000)*1_000_000 + uint64(w.written%10_000)*100)
}

// drawText returns a text that nobody else writes.
func (w *Workload) drawText() string {
	w.written++
	return fmt.Sprintf("c%d.%d,", w.client, w.written)
}
