// Package check holds what github.com/bradfitz/gomemcache asks of the replicas of a group, and what it must be answered. The client
// program and the live test of package bench run it.
package check

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
)

const (
	rounds      = 200 // operations of each concurrent client
	clientsEach = 3   // concurrent clients of each replica
	many        = 5000
	wait        = 10 * time.Second
)

// Run runs the whole check on the replicas at addresses (host:port), which it flushes. It takes a few seconds. The
// error says which operation had an unexpected answer.
func Run(addresses []string) error {
	clients := make([]*memcache.Client, len(addresses))
	for i, address := range addresses {
		clients[i] = connect(address)
		defer clients[i].Close()
		if err := clients[i].Ping(); err != nil {
			return fmt.Errorf("ping %s: %w", address, err)
		}
	}
	c := clients[0]
	parts := []func() error{
		c.FlushAll,
		func() error { return storage(c) },
		func() error { return values(c) },
		func() error { return manyKeys(c) },
		func() error { return checkAndSet(c) },
		func() error { return counters(c) },
		func() error { return expiry(c) },
		func() error { return countsAreExact(addresses) },
	}
	if len(clients) > 1 {
		parts = append(parts, func() error { return visibleEverywhere(clients) })
	}
	for _, part := range append(parts, func() error { return flush(clients) }) {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

func connect(address string) *memcache.Client {
	c := memcache.New(address)
	c.Timeout, c.MaxIdleConns = wait, clientsEach
	return c
}

// script collects the first unexpected answer of operations that follow each other.
type script struct{ err error }

// expect notes an error that is not the wanted one. what names the operation.
func (s *script) expect(what string, got, want error) {
	if s.err == nil && !errors.Is(got, want) {
		s.err = fmt.Errorf("%s: got error %v, want %v", what, got, want)
	}
}

// value notes an item that has not the wanted value.
func (s *script) value(what string, it *memcache.Item, err error, want []byte) {
	s.expect(what, err, nil)
	if s.err == nil && !bytes.Equal(it.Value, want) {
		s.err = fmt.Errorf("%s: got %.60q of %d bytes, want %.60q of %d", what, it.Value, len(it.Value), want, len(want))
	}
}

// number notes the answer to an incr or decr that is not the wanted one.
func (s *script) number(what string, got uint64, err error, want uint64) {
	s.expect(what, err, nil)
	if s.err == nil && got != want {
		s.err = fmt.Errorf("%s: got %d, want %d", what, got, want)
	}
}

func item(key, value string) *memcache.Item { return &memcache.Item{Key: key, Value: []byte(value)} }

func storage(c *memcache.Client) error {
	var s script
	_, err := c.Get("a")
	s.expect("get of nothing", err, memcache.ErrCacheMiss)
	s.expect("set", c.Set(&memcache.Item{Key: "a", Value: []byte("1"), Flags: 1<<32 - 1}), nil)
	it, err := c.Get("a")
	s.value("get", it, err, []byte("1"))
	if err == nil && it.Flags != 1<<32-1 {
		return fmt.Errorf("get: flags %d", it.Flags)
	}
	s.expect("add of what is there", c.Add(item("a", "2")), memcache.ErrNotStored)
	s.expect("add", c.Add(item("b", "2")), nil)
	s.expect("replace", c.Replace(item("a", "3")), nil)
	s.expect("replace of nothing", c.Replace(item("nothing", "3")), memcache.ErrNotStored)
	s.expect("append", c.Append(item("a", "4")), nil)
	s.expect("prepend", c.Prepend(item("a", "2")), nil)
	s.expect("append to nothing", c.Append(item("nothing", "4")), memcache.ErrNotStored)
	s.expect("prepend to nothing", c.Prepend(item("nothing", "4")), memcache.ErrNotStored)
	it, err = c.Get("a")
	s.value("get after append and prepend", it, err, []byte("234"))
	s.expect("delete", c.Delete("a"), nil)
	s.expect("delete of nothing", c.Delete("a"), memcache.ErrCacheMiss)
	_, err = c.Get("a")
	s.expect("get of what was deleted", err, memcache.ErrCacheMiss)
	return s.err
}

func values(c *memcache.Client) error {
	var s script
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	large := bytes.Repeat(all, 1_000_000/len(all))
	for key, value := range map[string][]byte{"empty": nil, "odd": append(all, "\r\nEND\r\nVALUE x 0 1\r\n\r\n"...),
		strings.Repeat("k", 250): []byte("long key"), "large": large} {
		s.expect("set "+key, c.Set(&memcache.Item{Key: key, Value: value}), nil)
		it, err := c.Get(key)
		s.value("get "+key, it, err, value)
	}
	s.expect("append to a large value", c.Append(item("large", "end")), nil)
	it, err := c.Get("large")
	s.value("get after append to a large value", it, err, append(large, "end"...))
	if err := c.Set(&memcache.Item{Key: "large", Value: make([]byte, 1<<20+1)}); err == nil {
		return errors.New("set of too large a value: no error")
	}
	_, err = c.Get("large")
	s.expect("get of what a value that was too large has replaced", err, memcache.ErrCacheMiss)
	return s.err
}

func manyKeys(c *memcache.Client) error {
	var s script
	want := make(map[string]string)
	for i := range many {
		key := "many:" + strconv.Itoa(i)
		want[key] = "value of " + key
		s.expect("set", c.Set(item(key, want[key])), nil)
	}
	if s.err != nil {
		return s.err
	}
	if err := expectMany(c, want, append(slices.Collect(maps.Keys(want)), "nothing")); err != nil {
		return err
	}
	_, err := c.GetMulti([]string{"nothing"})
	s.expect("get of many without hits", err, nil)
	return s.err
}

// expectMany gets keys in one request and compares with want.
func expectMany(c *memcache.Client, want map[string]string, keys []string) error {
	items, err := c.GetMulti(keys)
	if err != nil {
		return fmt.Errorf("get of %d keys: %w", len(keys), err)
	}
	if len(items) != len(want) {
		return fmt.Errorf("get of %d keys: %d hits, want %d", len(keys), len(items), len(want))
	}
	for key, it := range items {
		if string(it.Value) != want[key] {
			return fmt.Errorf("get of %d keys: %s is %.60q, want %.60q", len(keys), key, it.Value, want[key])
		}
	}
	return nil
}

func checkAndSet(c *memcache.Client) error {
	var s script
	s.expect("set", c.Set(item("unique", "1")), nil)
	first, err := c.Get("unique")
	s.expect("get", err, nil)
	second, err := c.Get("unique")
	s.expect("get", err, nil)
	if s.err != nil {
		return s.err
	}
	first.Value, second.Value = []byte("2"), []byte("3")
	s.expect("cas", c.CompareAndSwap(first), nil)
	s.expect("cas with a unique of before", c.CompareAndSwap(second), memcache.ErrCASConflict)
	it, err := c.Get("unique")
	s.value("get after cas", it, err, []byte("2"))
	s.expect("delete", c.Delete("unique"), nil)
	s.expect("cas of what was deleted", c.CompareAndSwap(it), memcache.ErrCacheMiss)
	return s.err
}

func counters(c *memcache.Client) error {
	var s script
	s.expect("set", c.Set(item("n", "10")), nil)
	n, err := c.Increment("n", 5)
	s.number("incr", n, err, 15)
	n, err = c.Decrement("n", 1)
	s.number("decr", n, err, 14)
	n, err = c.Decrement("n", 100)
	s.number("decr below 0", n, err, 0)
	n, err = c.Increment("n", 1<<64-1)
	s.number("incr to the largest number", n, err, 1<<64-1)
	n, err = c.Increment("n", 2)
	s.number("incr beyond it", n, err, 1)
	_, err = c.Increment("nothing", 1)
	s.expect("incr of nothing", err, memcache.ErrCacheMiss)
	s.expect("set", c.Set(item("text", "abc")), nil)
	if _, err = c.Increment("text", 1); s.err == nil && err == nil {
		return errors.New("incr of a text: no error")
	}
	return s.err
}

func expiry(c *memcache.Client) error {
	var s script
	s.expect("set for a second", c.Set(&memcache.Item{Key: "short", Expiration: 1}), nil)
	s.expect("set for long", c.Set(&memcache.Item{Key: "long", Expiration: 100}), nil)
	s.expect("touch", c.Touch("long", 1), nil)
	s.expect("touch of nothing", c.Touch("nothing", 1), memcache.ErrCacheMiss)
	s.expect("set for a second", c.Set(&memcache.Item{Key: "kept", Value: []byte("1"), Expiration: 1}), nil)
	it, err := c.GetAndTouch("kept", 100)
	s.value("gat", it, err, []byte("1"))
	_, err = c.GetAndTouch("nothing", 100)
	s.expect("gat of nothing", err, memcache.ErrCacheMiss)
	s.expect("set with an exptime in the past", c.Set(&memcache.Item{Key: "past", Expiration: -1}), nil)
	_, err = c.Get("past")
	s.expect("get of it", err, memcache.ErrCacheMiss)
	if s.err != nil {
		return s.err
	}
	for _, key := range []string{"short", "long"} {
		for deadline := time.Now().Add(wait); ; time.Sleep(50 * time.Millisecond) {
			if _, err := c.Get(key); errors.Is(err, memcache.ErrCacheMiss) {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s has not expired within %v", key, wait)
			}
		}
	}
	it, err = c.Get("kept")
	s.value("get of what was touched for long", it, err, []byte("1"))
	return s.err
}

// countsAreExact: incr, and cas in a loop, through all replicas at once, lose nothing; of many adds of one key one is
// stored.
func countsAreExact(addresses []string) error {
	c := connect(addresses[0])
	defer c.Close()
	var s script
	s.expect("set", c.Set(item("counter", "0")), nil)
	s.expect("set", c.Set(item("cas-counter", "0")), nil)
	if s.err != nil {
		return s.err
	}
	var running sync.WaitGroup
	won := make([]int, len(addresses)*clientsEach)
	errs := make([]error, len(won))
	for i := range won {
		running.Go(func() { won[i], errs[i] = count(addresses[i%len(addresses)]) })
	}
	running.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	total := 0
	for _, n := range won {
		total += n
	}
	if total != rounds {
		return fmt.Errorf("%d adds of %d keys were stored: one for each key, no more, no less", total, rounds)
	}
	want := []byte(strconv.Itoa(rounds * len(won)))
	for _, address := range addresses {
		c := connect(address)
		it, err := c.Get("counter")
		s.value("counter after concurrent incr, at "+address, it, err, want)
		it, err = c.Get("cas-counter")
		s.value("counter after concurrent cas, at "+address, it, err, want)
		c.Close()
	}
	return s.err
}

// count is one client of countsAreExact. It returns how many of its adds were stored.
func count(address string) (won int, err error) {
	c := connect(address)
	defer c.Close()
	for i := range rounds {
		if _, err := c.Increment("counter", 1); err != nil {
			return won, fmt.Errorf("incr at %s: %w", address, err)
		}
		switch err := c.Add(item("once:"+strconv.Itoa(i), address)); {
		case err == nil:
			won++
		case !errors.Is(err, memcache.ErrNotStored):
			return won, fmt.Errorf("add at %s: %w", address, err)
		}
		for {
			it, err := c.Get("cas-counter")
			if err != nil {
				return won, fmt.Errorf("get at %s: %w", address, err)
			}
			n, err := strconv.Atoi(string(it.Value))
			if err != nil {
				return won, fmt.Errorf("get at %s: %w", address, err)
			}
			it.Value = strconv.AppendInt(nil, int64(n+1), 10)
			if err = c.CompareAndSwap(it); err == nil {
				break
			}
			if !errors.Is(err, memcache.ErrCASConflict) {
				return won, fmt.Errorf("cas at %s: %w", address, err)
			}
		}
	}
	return won, nil
}

// visibleEverywhere: what was answered by one replica is read at once from any other.
func visibleEverywhere(clients []*memcache.Client) error {
	var s script
	for i := range rounds {
		writer, reader, third := clients[i%len(clients)], clients[(i+1)%len(clients)], clients[(i+2)%len(clients)]
		value := strconv.Itoa(i)
		s.expect("set", writer.Set(item("moving", value)), nil)
		it, err := reader.Get("moving")
		s.value("get from another replica", it, err, []byte(value))
		if s.err != nil {
			return s.err
		}
		it.Value = append(it.Value, '!')
		s.expect("cas at a third", third.CompareAndSwap(it), nil)
		it, err = writer.Get("moving")
		s.value("get after it", it, err, []byte(value+"!"))
		s.expect("delete", reader.Delete("moving"), nil)
		_, err = writer.Get("moving")
		s.expect("get of what was deleted elsewhere", err, memcache.ErrCacheMiss)
	}
	large := bytes.Repeat([]byte("0123456789"), 100_000)
	s.expect("set of a large value", clients[0].Set(&memcache.Item{Key: "large", Value: large}), nil)
	for _, c := range clients {
		it, err := c.Get("large")
		s.value("get of it from another replica", it, err, large)
	}
	return s.err
}

// flush flushes through the last client; nothing is left at any.
func flush(clients []*memcache.Client) error {
	var s script
	s.expect("flush_all", clients[len(clients)-1].FlushAll(), nil)
	for _, c := range clients {
		_, err := c.Get("counter")
		s.expect("get of what was flushed", err, memcache.ErrCacheMiss)
	}
	return s.err
}
