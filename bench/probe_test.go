package bench

import (
	"testing"
	"time"
)

// TestLongestStall: times are in milliseconds; each answer is "called-answered".
func TestLongestStall(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		name     string
		answers  [][2]int
		from, to int
		want     int
	}{
		{"answers without a wait: their own time", [][2]int{{0, 1}, {2, 3}, {4, 5}, {6, 7}}, 0, 8, 1},
		{"a long wait for one answer", [][2]int{{0, 1}, {2, 52}, {53, 54}}, 0, 55, 50},
		{"a wait over attempts that failed", [][2]int{{0, 1}, {80, 81}, {82, 83}}, 0, 84, 79},
		{"a wait that began before", [][2]int{{0, 1}, {2, 52}, {53, 54}}, 30, 55, 22},
		{"a wait that has no end", [][2]int{{0, 1}, {2, 3}}, 0, 100, 96},
		{"a wait that ends later", [][2]int{{0, 1}, {2, 3}, {4, 200}}, 0, 100, 96},
		{"no answer ever", nil, 10, 100, 90},
		{"nothing but answers before", [][2]int{{0, 1}, {2, 3}}, 50, 60, 10},
		{"an answer just before, in whose pause the span begins", [][2]int{{0, 10}, {11, 12}}, 10, 13, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			var served []Served
			for _, a := range test.answers {
				served = append(served, Served{time.Duration(a[0]) * ms, time.Duration(a[1]) * ms})
			}
			got := LongestStall(served, time.Duration(test.from)*ms, time.Duration(test.to)*ms, ms)
			if want := time.Duration(test.want) * ms; got != want {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestQuantile(t *testing.T) {
	values := []time.Duration{5, 1, 4, 2, 3}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 3, 0.99: 5, 1: 5} {
		if got := Quantile(values, q); got != want {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if got := Quantile(nil, 0.5); got != 0 {
		t.Errorf("of nothing it is %v", got)
	}
}
