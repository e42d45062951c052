package bench

import (
	"math"
	"math/bits"
)

// random is the generator wyrand: 64 bits a step, a few cycles each. Its state is one word, so that every thread has
// its own.
type random uint64

func (r *random) next() uint64 {
	*r += 0xa0761d6478bd642f
	hi, lo := bits.Mul64(uint64(*r), uint64(*r)^0xe7037ed1a0b428db)
	return hi ^ lo
}

// below returns a number in 0..n-1.
func (r *random) below(n uint64) uint64 {
	hi, _ := bits.Mul64(r.next(), n)
	return hi
}

// fraction returns a number in [0, 1).
func (r *random) fraction() float64 { return float64(r.next()>>11) * (1.0 / (1 << 53)) }

// zipf draws ranks 0..n-1 with probabilities in proportion to 1/(rank+1)^s, for any s > 0, without a table: W. Hörmann
// and G. Derflinger, "Rejection-inversion to generate variates from monotone discrete distributions", 1996. (The usual
// formula of YCSB is an approximation, and only for s < 1.)
type zipf struct {
	n, s                    float64
	integralOne, integralN  float64 // the integral of x^-s up to 1.5, less 1, and up to n+0.5
	acceptedWithoutChecking float64
}

func newZipf(n uint64, s float64) *zipf {
	z := &zipf{n: float64(n), s: s}
	z.integralOne = z.integral(1.5) - 1
	z.integralN = z.integral(z.n + 0.5)
	z.acceptedWithoutChecking = 2 - z.inverse(z.integral(2.5)-math.Pow(2, -s))
	return z
}

// integral is an antiderivative of x^-s: (x^(1-s) - 1) / (1-s), which is log x where s is 1.
func (z *zipf) integral(x float64) float64 {
	logX := math.Log(x)
	t := (1 - z.s) * logX
	if math.Abs(t) < 1e-8 {
		return logX * (1 + t/2)
	}
	return math.Expm1(t) / (1 - z.s)
}

// inverse of integral.
func (z *zipf) inverse(y float64) float64 {
	t := math.Max(-1, y*(1-z.s))
	if math.Abs(t) < 1e-8 {
		return math.Exp(y * (1 - t/2))
	}
	return math.Exp(math.Log1p(t) / (1 - z.s))
}

// draw returns a rank. The expected number of rounds is close to 1 for every n and s.
func (z *zipf) draw(r *random) uint64 {
	for {
		u := z.integralN + r.fraction()*(z.integralOne-z.integralN)
		x := z.inverse(u)
		k := math.Min(math.Max(math.Floor(x+0.5), 1), z.n)
		if k-x <= z.acceptedWithoutChecking || u >= z.integral(k+0.5)-math.Pow(k, -z.s) {
			return uint64(k) - 1
		}
	}
}
