package replication

import (
	"flag"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

var (
	exploreFull = flag.Bool("explore.full", false, "TestExplore: all configurations of every family, not a sample")
	exploreOnly = flag.String("explore.only", "", "TestExplore: only configurations whose names contain this text; it is what a failure prints")
)

// family is a set of explorations: all ways in which clients give some requests to the replicas, each after each prologue.
type family struct {
	name     string
	replicas int
	kinds    []request
	requests int // per configuration, all of them concurrent
	before   []prologue
	breaks   int
	ticks    int
	lates    int
	full     bool
	crash    []int // replicas that may crash, one in each configuration; the others enter a view without it
	expelled bool  // they are removed, and live on
	joins    bool  // the last replica joins
	// One in every configurations is explored by a plain go test, one in short with -short; 0: none. They must have no factor in common
	// with twice the number of kinds, or some kinds would never meet.
	every, short int
}

// prologue is what happens, to its end, before the requests come.
type prologue struct {
	name     string
	requests []request
}

var (
	nothing = prologue{"nothing", nil}
	stored  = prologue{"k is stored", []request{{kind: OpSet, key: "k", value: "5"}}}
	deleted = prologue{"k has been deleted", []request{{kind: OpSet, key: "k", value: "5"}, {kind: OpDelete, key: "k"}}}
	beside  = prologue{"j is stored", []request{{kind: OpSet, key: "j", value: "5"}}}
	both    = prologue{"j and k are stored", []request{{kind: OpSet, key: "j", value: "5"}, {kind: OpSet, key: "k", value: "5"}}}
)

// of returns a request of each kind for key k, or, with a colon, another key. "-1" gives it an exptime in the past.
func of(kinds string) (rs []request) {
	for _, word := range strings.Fields(kinds) {
		word, dead := strings.CutSuffix(word, "-1")
		name, key, _ := strings.Cut(word, ":")
		if key == "" {
			key = "k"
		}
		kind := slices.Index(opNames[:], name)
		if kind < 0 {
			panic("explorer: no operation is called " + name)
		}
		rs = append(rs, request{kind: OpKind(kind), key: key, dead: dead})
	}
	return rs
}

var (
	everyKind = of("get set set-1 add replace append prepend cas incr decr touch touch-1 gat-1 delete flush evict")
	mostKinds = of("set incr add cas delete append touch-1 flush evict get")
	// coreKinds are the kinds that differ in the protocol: a plain write, a read-modify-write on a value, one on an absent key, one
	// that makes a key absent, and one of the whole lane.
	coreKinds = of("set incr add delete flush")
)

var families = []family{
	{name: "two requests of every kind, a break, two ticks", replicas: 2, kinds: everyKind, requests: 2, breaks: 1, ticks: 2,
		before: []prologue{nothing, stored, deleted}, every: 3, short: 41},
	{name: "three requests, all orders", replicas: 2, kinds: mostKinds, requests: 3,
		before: []prologue{nothing, stored}, every: 1, short: 7},
	{name: "three requests, a break", replicas: 2, kinds: mostKinds, requests: 3, breaks: 1,
		before: []prologue{nothing, stored}, every: 7},
	{name: "three requests, a break, a tick", replicas: 2, kinds: coreKinds, requests: 3, breaks: 1, ticks: 1,
		before: []prologue{nothing, stored}, every: 3, short: 41},
	{name: "three requests, a break, two ticks", replicas: 2, kinds: mostKinds, requests: 3, breaks: 1, ticks: 2,
		before: []prologue{nothing, stored, deleted}},
	{name: "two requests, two breaks", replicas: 2, kinds: coreKinds, requests: 2, breaks: 2, ticks: 1,
		before: []prologue{nothing, stored}, every: 3},
	{name: "four requests", replicas: 2, kinds: mostKinds, requests: 4, ticks: 1,
		before: []prologue{nothing, stored}, every: 173},
	{name: "four requests, a break", replicas: 2, kinds: coreKinds, requests: 4, breaks: 1,
		before: []prologue{nothing, stored}},
	{name: "three requests, late answers", replicas: 2, kinds: coreKinds, requests: 3, lates: 2,
		before: []prologue{nothing, stored}, every: 3, short: 41},
	{name: "three requests, a break, late answers", replicas: 2, kinds: coreKinds, requests: 3, breaks: 1, lates: 1,
		before: []prologue{nothing, stored}, every: 11},
	{name: "two keys in a lane", replicas: 2, kinds: of("set add delete delete:j add:j"), requests: 3, breaks: 1, ticks: 1,
		before: []prologue{beside, both}, every: 7},
	{name: "no room", replicas: 2, kinds: coreKinds, requests: 2, breaks: 1, ticks: 1, full: true,
		before: []prologue{nothing, stored}, every: 1, short: 7},
	{name: "three replicas, two requests, a tick", replicas: 3, kinds: mostKinds, requests: 2, ticks: 1,
		before: []prologue{nothing, stored, deleted}, every: 3, short: 37},
	{name: "three replicas, two requests, a break", replicas: 3, kinds: coreKinds, requests: 2, breaks: 1,
		before: []prologue{nothing, stored, deleted}, every: 3},
	{name: "three replicas, three requests", replicas: 3, kinds: mostKinds, requests: 3,
		before: []prologue{nothing, stored, deleted}, every: 47},
	{name: "three replicas, three requests, a break", replicas: 3, kinds: coreKinds, requests: 3, breaks: 1,
		before: []prologue{nothing, stored}},
	{name: "two replicas, two requests, a crash", replicas: 2, kinds: mostKinds, requests: 2, crash: []int{1, 2}, ticks: 1,
		before: []prologue{nothing, stored, deleted}, every: 1, short: 13},
	{name: "three replicas, a request of every kind, a crash, two ticks", replicas: 3, kinds: everyKind, requests: 1, crash: []int{1, 2}, ticks: 2,
		before: []prologue{nothing, stored, deleted}, every: 1, short: 13},
	{name: "three replicas, two requests, a crash, a tick", replicas: 3, kinds: coreKinds, requests: 2, crash: []int{1, 2, 3}, ticks: 1,
		before: []prologue{nothing, stored, deleted}, every: 17},
	{name: "three replicas, two requests, a removal", replicas: 3, kinds: coreKinds, requests: 2, crash: []int{1, 2, 3}, expelled: true,
		before: []prologue{nothing, stored, deleted}, every: 17},
	{name: "three replicas, two requests, a crash, a break", replicas: 3, kinds: of("set incr delete"), requests: 2, crash: []int{1, 2, 3}, breaks: 1,
		before: []prologue{stored}},
	{name: "three replicas, three requests, a crash", replicas: 3, kinds: of("set incr delete"), requests: 3, crash: []int{1, 2, 3},
		before: []prologue{stored}},
	{name: "a replica joins one", replicas: 2, kinds: mostKinds, requests: 2, joins: true, ticks: 1,
		before: []prologue{nothing, stored, deleted}, every: 1, short: 13},
	{name: "a replica joins two", replicas: 3, kinds: coreKinds, requests: 2, joins: true,
		before: []prologue{nothing, stored, deleted}, every: 67},
	{name: "three replicas, two keys in a lane", replicas: 3, kinds: of("set add delete delete:j flush"), requests: 2, breaks: 1, ticks: 1,
		before: []prologue{beside, both}},
}

// configurations returns the family's explorations, without those that are the same but for the names of the replicas.
func (f *family) configurations() (all []*exploration) {
	for _, p := range f.before {
		for _, requests := range placements(f.kinds, f.requests, f.replicas-b2i(f.joins)) {
			for _, crash := range append([]int{0}[:b2i(f.crash == nil)], f.crash...) {
				all = append(all, &exploration{replicas: f.replicas, prologue: p.requests, requests: requests, breaks: f.breaks, ticks: f.ticks, lates: f.lates,
					full: f.full, crash: crash, expelled: f.expelled, joins: f.joins})
			}
		}
	}
	return all
}

// placements returns all ways to give n requests of the kinds to the replicas: those of one replica in order, and no replica without any
// before one with some.
func placements(kinds []request, n, replicas int) (all [][]request) {
	var extend func(rs []request, at int)
	extend = func(rs []request, at int) {
		if len(rs) == n {
			all = append(all, distinct(rs))
			return
		}
		for _, k := range kinds {
			k.at = at
			with := append(rs[:len(rs):len(rs)], k)
			extend(with, at)
			if at+1 < replicas && len(with) < n {
				extend(with, at+1)
			}
		}
	}
	extend(nil, 0)
	return all
}

// distinct gives each request arguments of its own, so that no two do the same.
func distinct(rs []request) []request {
	rs = slices.Clone(rs)
	for i := range rs {
		rs[i].value = fmt.Sprint(i + 1)
		rs[i].delta = [...]uint64{10, 100, 1000, 10_000}[i]
	}
	return rs
}

// TestExplore explores a sample of each family, evenly spread; with -explore.full, each family whole, which takes hours.
func TestExplore(t *testing.T) {
	for i := range families {
		f := &families[i]
		every := f.every
		switch {
		case *exploreFull || *exploreOnly != "":
			every = 1
		case testing.Short():
			every = f.short
		}
		if every == 0 {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			var chosen []*exploration
			for i, x := range f.configurations() {
				if i%every == every/2 && strings.Contains(x.name(), *exploreOnly) {
					chosen = append(chosen, x)
				}
			}
			exploreAll(t, chosen)
		})
	}
}

// violationsShown bounds the violations that a test tells of.
const violationsShown = 3

// exploreAll runs explorations side by side, and reports the violations found and the states visited.
func exploreAll(t *testing.T, xs []*exploration) {
	var mu sync.Mutex
	var total explored
	done, wrong := 0, 0
	next := make(chan *exploration)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for x := range next {
				res := x.run()
				mu.Lock()
				total.add(res)
				done++
				if res.wrong != "" {
					if wrong++; wrong <= violationsShown {
						t.Errorf("%s: %v\nto repeat it: go test ./replication -run TestExplore -explore.only '%s'", x.name(), res, x.name())
					}
				}
				mu.Unlock()
			}
		})
	}
	for _, x := range xs {
		next <- x
		mu.Lock()
		enough := wrong >= violationsShown
		mu.Unlock()
		if enough {
			break
		}
	}
	close(next)
	workers.Wait()
	t.Logf("%d configurations: %v", done, total)
}
