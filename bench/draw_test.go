package bench

import (
	"math"
	"testing"
)

// TestZipfDrawsByTheLaw compares how often ranks are drawn with 1/(rank+1)^s over its sum.
func TestZipfDrawsByTheLaw(t *testing.T) {
	const draws = 400000
	for _, s := range []float64{0.5, 0.99, 1, 1.5} {
		for _, n := range []uint64{1, 2, 10, 1000} {
			z, r, counts := newZipf(n, s), random(1), make([]float64, n)
			for range draws {
				counts[z.draw(&r)]++
			}
			sum := 0.0
			for k := range n {
				sum += math.Pow(float64(k+1), -s)
			}
			for k := range n {
				want := draws * math.Pow(float64(k+1), -s) / sum
				// Five standard deviations of a count, and a bit.
				if math.Abs(counts[k]-want) > 5*math.Sqrt(want)+5 {
					t.Errorf("s %v, n %d: rank %d drawn %v times, expected %.0f", s, n, k, counts[k], want)
				}
			}
		}
	}
}

func TestUniformDrawsAll(t *testing.T) {
	r, counts := random(1), make([]int, 100)
	for range 100000 {
		counts[r.below(100)]++
	}
	for k, n := range counts {
		if n < 800 || n > 1200 {
			t.Errorf("%d drawn %d times of 100000", k, n)
		}
	}
}

func TestKeyTexts(t *testing.T) {
	k := newKeySpace(1<<40, 13)
	for _, key := range []uint64{0, 9, 10, 123456, 1<<40 - 1} {
		text := k.append(nil, key)
		if len(text) != 13 || !k.matches(text, key) || k.matches(text, key+1) || k.matches(text, key*10+1) {
			t.Errorf("key %d: %q", key, text)
		}
	}
	if text := string(k.append(nil, 42)); text != "0000000000042" {
		t.Errorf("key 42 is %q", text)
	}
}

func TestParseValueSizes(t *testing.T) {
	for text, largest := range map[string]int{"0": 0, "100": 100, "32,1024": 1024, "10-2000": 2000, "": -1, "5-4": -1, "-5": -1, "a": -1, "1,": -1} {
		v, err := ParseValueSizes(text)
		if (err == nil) != (largest >= 0) || err == nil && (v.largest() != largest || v.String() != text) {
			t.Errorf("%q: %+v, %v", text, v, err)
		}
	}
}
