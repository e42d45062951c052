package server

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
)

// conversation makes requests of one client on keys of its own, and the replies that memcached would give.
func conversation(r *rand.Rand, prefix string, requests int) (in, out []byte) {
	items := map[string]string{}
	flags := map[string]int{}
	for range requests {
		key := fmt.Sprintf("%s%d", prefix, r.IntN(6))
		noreply, quiet := "", r.IntN(5) == 0
		if quiet {
			noreply = " noreply"
		}
		reply := ""
		switch r.IntN(8) {
		case 0, 1:
			value := strings.Repeat(string(rune('a'+r.IntN(26))), r.IntN(300))
			f := r.IntN(3)
			in = fmt.Appendf(in, "set %s %d 0 %d%s\r\n%s\r\n", key, f, len(value), noreply, value)
			items[key], flags[key], reply = value, f, "STORED\r\n"
		case 2:
			in = fmt.Appendf(in, "add %s 7 0 2%s\r\nad\r\n", key, noreply)
			if reply = "NOT_STORED\r\n"; !has(items, key) {
				items[key], flags[key], reply = "ad", 7, "STORED\r\n"
			}
		case 3:
			in = fmt.Appendf(in, "append %s 0 0 1%s\r\n+\r\n", key, noreply)
			if reply = "NOT_STORED\r\n"; has(items, key) {
				items[key] += "+"
				reply = "STORED\r\n"
			}
		case 4:
			in = fmt.Appendf(in, "delete %s%s\r\n", key, noreply)
			if reply = "NOT_FOUND\r\n"; has(items, key) {
				delete(items, key)
				reply = "DELETED\r\n"
			}
		case 5, 6:
			in = append(in, "get"...)
			for range 1 + r.IntN(4) {
				k := fmt.Sprintf("%s%d", prefix, r.IntN(6))
				in = append(append(in, ' '), k...)
				if has(items, k) {
					reply += fmt.Sprintf("VALUE %s %d %d\r\n%s\r\n", k, flags[k], len(items[k]), items[k])
				}
			}
			in = append(in, "\r\n"...)
			reply, quiet = reply+"END\r\n", false
		case 7:
			in = append(in, "nonsense\r\n"...)
			reply, quiet = "ERROR\r\n", false
		}
		if !quiet {
			out = append(out, reply...)
		}
	}
	return in, out
}

func has(m map[string]string, key string) bool { _, ok := m[key]; return ok }

// Replies leave in the order of the requests, whatever the order in which operations complete, how many connections there are,
// and how the input is cut.
func TestRepliesKeepTheOrderOfRequests(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			store := newFakeStore(seed, float64(seed%4)/4)
			store.shuffle(t)
			s := startServer(t, store)
			var clients sync.WaitGroup
			for n := range 5 {
				c := dial(t, s)
				r := rand.New(rand.NewPCG(seed, uint64(n)))
				in, out := conversation(r, fmt.Sprintf("c%d-", n), 600)
				clients.Go(func() { sendInPieces(c, r, in) })
				clients.Go(func() {
					got := make([]byte, len(out))
					k, err := io.ReadFull(c, got)
					if !bytes.Equal(got[:k], out) {
						at := 0
						for at < k && got[at] == out[at] {
							at++
						}
						t.Errorf("client %d: after %d right bytes came %q and not %q (%v)", n, at, shorten(got[at:k]), shorten(out[at:]), err)
					}
				})
			}
			clients.Wait()
			eventually(t, "all operations are back", func() bool { return store.holds() == 0 })
		})
	}
}

// sendInPieces sends in random pieces, mostly large.
func sendInPieces(c client, r *rand.Rand, in []byte) {
	for len(in) > 0 {
		n := min(len(in), 1+r.IntN(1<<(1+r.IntN(14))))
		if _, err := c.Write(in[:n]); err != nil {
			c.t.Error(err)
			return
		}
		in = in[n:]
	}
}

// Updates of a pipeline are in flight together: none waits for the one before.
func TestUpdatesOfAPipelineAreInFlightTogether(t *testing.T) {
	store := newFakeStore(1, 0)
	s := startServer(t, store)
	c := dial(t, s)
	const n = 50
	for i := range n {
		c.send(set(fmt.Sprint("k", i), "v"))
	}
	eventually(t, "all are submitted", func() bool { return store.holds() == n })
	store.complete(n)
	c.want(strings.Repeat("STORED\r\n", n))
}

// A get of which a key cannot be read is answered with an error after the values before it, and with nothing else; what comes after
// the get is not touched by that.
func TestGetThatFailsAtOneKey(t *testing.T) {
	const keys = 100 // so many that the get pauses while its first values are waited for
	for seed := range uint64(20) {
		store := newFakeStore(seed, float64(seed%3)/2)
		store.shuffle(t)
		s := startServer(t, store)
		c := dial(t, s)
		var sets, line, want strings.Builder
		failAt := int(seed*7) % keys
		line.WriteString("get")
		for i := range keys {
			key := fmt.Sprint("k", i)
			fmt.Fprintf(&sets, "set %s 0 0 1 noreply\r\nv\r\n", key)
			if i == failAt {
				fmt.Fprintf(&line, " %s1", bad)
				want.WriteString("SERVER_ERROR the fake says so\r\n")
			}
			fmt.Fprintf(&line, " %s", key)
			if i < failAt {
				want.WriteString(valueOf(key, "v"))
			}
		}
		c.send(sets.String() + line.String() + "\r\nget k1\r\n" + line.String() + "\r\nget no k2\r\n")
		c.want(want.String() + valueOf("k1", "v") + "END\r\n" + want.String() + valueOf("k2", "v") + "END\r\n")
	}
}

// What many clients have asked for while a poller was busy goes to the other replicas at once, not client by client.
func TestOneFlushForAllClientsOfARound(t *testing.T) {
	const clients = 40
	store := newFakeStore(1, 0)
	s := startServer(t, store)
	var all []client
	for range clients {
		c := dial(t, s)
		c.send("version\r\n")
		c.want("VERSION " + ProtocolVersion + "-hermesd-" + Version + "\r\n")
		all = append(all, c)
	}
	gate := make(chan struct{})
	store.mu.Lock()
	store.hold, store.flushes = gate, 0
	store.mu.Unlock()
	for i, c := range all { // the poller stands still at the first; the others' requests lie in their sockets when it goes on
		c.send(set(fmt.Sprint("k", i), "v"))
	}
	close(gate)
	eventually(t, "all are submitted and flushed", func() bool {
		store.mu.Lock()
		defer store.mu.Unlock()
		return len(store.held) == clients && store.flushes > 0
	})
	store.mu.Lock()
	flushes := store.flushes
	store.mu.Unlock()
	if flushes > 4 {
		t.Errorf("%d flushes for %d clients", flushes, clients)
	}
	store.complete(clients)
	for _, c := range all {
		c.want("STORED\r\n")
	}
}

// A flush_all does not overtake the updates that its client has asked for before, and those after it do not wait for it.
func TestFlushKeepsItsPlaceInThePipeline(t *testing.T) {
	store := newFakeStore(1, 0)
	s := startServer(t, store)
	c := dial(t, s)
	c.send(set("k", "v") + "flush_all noreply\r\nflush_all\r\n" + set("k", "w") + "get k\r\n")
	eventually(t, "the first set is submitted", func() bool { return store.holds() == 1 })
	alive(t, s) // by then the poller has been through with what came before
	if n := store.holds(); n != 1 {
		t.Fatalf("%d operations are under way, while the first set is not done", n)
	}
	store.complete(1)
	c.want("STORED\r\n")
	eventually(t, "the flush without a reply is submitted", func() bool { return store.holds() == 1 })
	store.complete(1)
	eventually(t, "what follows is submitted", func() bool { return store.holds() == 3 })
	store.complete(3)
	c.want("OK\r\nSTORED\r\n" + valueOf("k", "w") + "END\r\n")
}

// One connection cannot have the Store hold more for it than a bound; the rest of its pipeline waits, and comes.
func TestOperationsInFlightAreBounded(t *testing.T) {
	store := newFakeStore(1, 0)
	s := startServer(t, store)
	c := dial(t, s)
	const n, size = 300, 20_000
	var sent sync.WaitGroup
	sent.Go(func() {
		value := strings.Repeat("x", size)
		for i := range n {
			if _, err := io.WriteString(c, set(fmt.Sprint("k", i), value)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	most := 0
	for answered := 0; answered < n; {
		eventually(t, "something is submitted", func() bool { return store.holds() > 0 })
		most = max(most, store.holds())
		answered += store.complete(1)
	}
	sent.Wait()
	c.want(strings.Repeat("STORED\r\n", n))
	if limit := maxLoad/size + 2; most > limit {
		t.Errorf("the Store held %d operations of %d bytes for one client, more than %d", most, size, limit)
	}
}
