package replication

import (
	"flag"
	"fmt"
	"testing"
	"time"
)

var tryBreaks = flag.Int("try.breaks", 0, "")
var tryTicks = flag.Int("try.ticks", 0, "")
var tryN = flag.Int("try.n", 3, "")
var tryR = flag.Int("try.r", 2, "")
var tryMax = flag.Int("try.max", 5, "")

func TestExploreTry(t *testing.T) {
	kinds := []request{
		{kind: OpSet, key: "k", value: "1"},
		{kind: OpIncr, key: "k", delta: 10},
		{kind: OpAdd, key: "k", value: "3"},
		{kind: OpDelete, key: "k"},
		{kind: OpCAS, key: "k", value: "4"},
		{kind: OpFlush},
		{kind: OpGet, key: "k"},
		{kind: OpTouch, key: "k", dead: true},
		{kind: opEvict, key: "k"},
	}
	prologues := [][]request{nil, {{kind: OpSet, key: "k", value: "5"}}}
	states, bad, n := 0, 0, 0
	began := time.Now()
	idx := make([]int, *tryN)
	for {
		for place := 0; place < pow(*tryR, *tryN); place++ {
			for pi, p := range prologues {
				x := exploration{replicas: *tryR, prologue: p, breaks: *tryBreaks, ticks: *tryTicks}
				pl := place
				for _, i := range idx {
					q := kinds[i]
					q.at = pl % *tryR
					pl /= *tryR
					x.requests = append(x.requests, q)
				}
				res := x.run()
				n++
				states += res.states
				if res.wrong != "" {
					bad++
					if bad <= *tryMax {
						name := ""
						for i := range x.requests {
							name += " " + x.requests[i].String()
						}
						t.Errorf("prologue %d%s: %v", pi, name, res)
					} else {
						t.Fatal("too many")
					}
				}
			}
		}
		i := 0
		for ; i < len(idx); i++ {
			idx[i]++
			if idx[i] < len(kinds) {
				break
			}
			idx[i] = 0
		}
		if i == len(idx) {
			break
		}
	}
	fmt.Println(n, "configs", states, "states", time.Since(began))
}

func pow(a, b int) int {
	if b == 0 {
		return 1
	}
	return a * pow(a, b-1)
}
