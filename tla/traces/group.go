package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"hermesd/replication"
)

// step is a line of a trace.
type step = replication.TraceStep

// lineMax bounds a line, in bytes.
const lineMax = 1 << 20

// laneOf is a lane of a replica: its steps are in their order. Those of other lanes of the replica may be in any: a step is told of after its messages can
// have left, and been answered.
type laneOf struct{ replica, lane uint8 }

// readGroup reads all that a group has written, and brings it into an order: that of time, where no message is received before it was sent, and the steps of
// each lane of a replica keep theirs.
func readGroup(folder string) ([]*step, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.ndjson"))
	if err != nil {
		return nil, err
	}
	lanes := map[laneOf][]*step{}
	var order []laneOf
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(bytes.NewReader(text))
		lines.Buffer(nil, lineMax)
		for n := 1; lines.Scan(); n++ {
			s := new(step)
			if err := json.Unmarshal(lines.Bytes(), s); err != nil {
				return nil, fmt.Errorf("%s:%d: %w", file, n, err)
			}
			if s.Replica < 1 || s.Replica > maxReplica {
				return nil, fmt.Errorf("%s:%d: replica %d is not in 1..%d", file, n, s.Replica, maxReplica)
			}
			lane := laneOf{s.Replica, s.Lane}
			if lanes[lane] == nil {
				order = append(order, lane)
			}
			lanes[lane] = append(lanes[lane], s)
		}
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	queues := make([][]*step, len(order))
	for i, lane := range order {
		queues[i] = lanes[lane]
	}
	return merge(queues), nil
}

// sending names a message by what a receiver knows of it.
type sending struct {
	from, to, lane uint8
	epoch          uint64
	kind           string
	ts             replication.TraceTS
	key            string // of the step that sends it, and of the one that receives it
}

// merge brings the steps of all lanes into one order. Clocks of different processors, and a step that is told of after its messages have
// left, can make a receipt seem earlier than the sending: then it waits for that.
func merge(queues [][]*step) (all []*step) {
	sent := map[sending]bool{}
	for {
		next, waiting := -1, -1
		for i, q := range queues {
			switch {
			case len(q) == 0:
			case !received(q[0], sent):
				if waiting < 0 || q[0].Time < queues[waiting][0].Time {
					waiting = i
				}
			case next < 0 || q[0].Time < queues[next][0].Time:
				next = i
			}
		}
		if next < 0 {
			next = waiting // nobody has sent it: for TLC to judge
		}
		if next < 0 {
			return all
		}
		s := queues[next][0]
		queues[next] = queues[next][1:]
		all = append(all, s)
		for _, m := range s.Sent {
			sent[sending{s.Replica, m.To, s.Lane, s.Epoch, m.Kind, m.TS, s.Key}] = true
		}
	}
}

// received reports whether what the step is the receipt of has been sent.
func received(s *step, sent map[sending]bool) bool {
	switch s.Step {
	case replication.StepINV, replication.StepACK, replication.StepNACK, replication.StepVAL, replication.StepSTATE:
		return sent[sending{s.From, s.Replica, s.Lane, s.Epoch, string(s.Step), *s.TS, s.Key}]
	}
	return true
}

// keyOf is a key of a lane.
type keyOf struct {
	lane uint8
	key  string
}

// keysOf are the keys that the steps are of, in order of appearance.
func keysOf(steps []*step) (keys []keyOf) {
	seen := map[keyOf]bool{}
	for _, s := range steps {
		k := keyOf{s.Lane, s.Key}
		if s.Key != "" && !seen[k] {
			seen[k] = true
			keys = append(keys, k)
		}
	}
	return keys
}

// firstView is the view in which the group begins: the first one that has all replicas. Steps on keys before it make a trace of that key impossible.
func firstView(steps []*step) (epoch uint64, ok bool) {
	for _, s := range steps {
		if s.Step == replication.StepEnter && slices.Equal(s.Members, []int{1, 2, 3}) && (!ok || s.Epoch < epoch) {
			epoch, ok = s.Epoch, true
		}
	}
	return epoch, ok
}
