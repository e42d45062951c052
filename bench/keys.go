package bench

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// keySpace makes the texts of keys: key number 42 of size 8 is "00000042".
type keySpace struct {
	count uint64
	zeros []byte // KeySize zeros, copied and then written over from the right
}

func newKeySpace(count uint64, size int) keySpace {
	return keySpace{count: count, zeros: bytes.Repeat([]byte{'0'}, size)}
}

// append appends the text of the key to dst.
func (k *keySpace) append(dst []byte, key uint64) []byte {
	dst = append(dst, k.zeros...)
	for i := len(dst) - 1; key > 0; i-- {
		dst[i] = '0' + byte(key%10)
		key /= 10
	}
	return dst
}

// matches reports whether text, of the right length, is the text of the key.
func (k *keySpace) matches(text []byte, key uint64) bool {
	for i := len(text) - 1; i >= 0; i-- {
		if key == 0 {
			return bytes.Equal(text[:i+1], k.zeros[:i+1])
		}
		if text[i] != '0'+byte(key%10) {
			return false
		}
		key /= 10
	}
	return key == 0
}

func decimalDigits(v uint64) int { return len(strconv.FormatUint(v, 10)) }

// ValueSizes is a list of sizes in bytes, each drawn equally often, or, when Sizes is empty, the range Min..Max, each
// size of which is drawn equally often.
type ValueSizes struct {
	Sizes []int `json:"sizes,omitempty"`
	Min   int   `json:"min,omitempty"`
	Max   int   `json:"max,omitempty"`
}

// ParseValueSizes reads "100", "32,1024,4096" or "10-2000".
func ParseValueSizes(text string) (ValueSizes, error) {
	var v ValueSizes
	var err error
	if lo, hi, isRange := strings.Cut(text, "-"); isRange {
		if v.Min, err = strconv.Atoi(lo); err == nil {
			v.Max, err = strconv.Atoi(hi)
		}
	} else {
		for _, s := range strings.Split(text, ",") {
			n, e := strconv.Atoi(s)
			v.Sizes = append(v.Sizes, n)
			if e != nil {
				err = e
			}
		}
	}
	if err != nil {
		return ValueSizes{}, fmt.Errorf("value sizes %q: give one size, a list like 32,1024 or a range like 10-2000", text)
	}
	return v, v.validate()
}

func (v ValueSizes) String() string {
	if len(v.Sizes) == 0 {
		return fmt.Sprintf("%d-%d", v.Min, v.Max)
	}
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(v.Sizes), " ", ","), "[]")
}

func (v ValueSizes) validate() error {
	for _, n := range append([]int{v.Min, v.Max}, v.Sizes...) {
		if n < 0 || n > MaxValueSize {
			return fmt.Errorf("a value size is %d: give 0 to %d bytes", n, MaxValueSize)
		}
	}
	if v.Min > v.Max {
		return fmt.Errorf("the range of value sizes is %d-%d: give the smaller first", v.Min, v.Max)
	}
	return nil
}

func (v ValueSizes) largest() int {
	largest := v.Max
	for _, n := range v.Sizes {
		largest = max(largest, n)
	}
	return largest
}

// draw picks a size from 32 random bits.
func (v *ValueSizes) draw(random uint32) uint32 {
	switch len(v.Sizes) {
	case 0:
		return uint32(v.Min) + uint32(uint64(random)*uint64(v.Max-v.Min+1)>>32)
	case 1:
		return uint32(v.Sizes[0])
	}
	return uint32(v.Sizes[uint64(random)*uint64(len(v.Sizes))>>32])
}

// valueHead is the number of bytes at the start of a value that identify it: 8 that depend on key and size, and 4 of
// salt, which say where in the block the rest comes from. Values shorter than that are cut.
const valueHead = 12

// valueSource makes values that say, in every byte, which key and size they were written for. Any bytes occur in them,
// line ends too.
type valueSource struct {
	sizes ValueSizes
	block []byte // random bytes; a value's body is a stretch of it that starts at its salt
}

// salts is the number of different bodies that values of one key and size can have.
const salts = 1 << 16

func newValueSource(sizes ValueSizes) *valueSource {
	v := &valueSource{sizes: sizes, block: make([]byte, salts+sizes.largest()+8)}
	// The same block in every run, so that a run can check what another one has written.
	r := rand.New(rand.NewPCG(1, 1))
	for i := 0; i+8 <= len(v.block); i += 8 {
		binary.LittleEndian.PutUint64(v.block[i:], r.Uint64())
	}
	return v
}

// append appends the value of the key that has this size and salt.
func (v *valueSource) append(dst []byte, key uint64, size, salt uint32) []byte {
	var head [valueHead]byte
	binary.LittleEndian.PutUint64(head[:], identity(key, size))
	salt %= salts
	binary.LittleEndian.PutUint32(head[8:], salt)
	if size <= valueHead {
		return append(dst, head[:size]...)
	}
	dst = append(dst, head[:]...)
	return append(dst, v.block[salt:salt+size-valueHead]...)
}

// checkHead checks the first min(size, valueHead) bytes of a value and returns its salt.
func (v *valueSource) checkHead(head []byte, key uint64, size uint32) (salt uint32, ok bool) {
	var want [8]byte
	binary.LittleEndian.PutUint64(want[:], identity(key, size))
	n := min(len(head), len(want))
	if !bytes.Equal(head[:n], want[:n]) {
		return 0, false
	}
	if len(head) < valueHead {
		return 0, true
	}
	salt = binary.LittleEndian.Uint32(head[8:])
	return salt, salt < salts
}

// checkBody checks a piece of a value's body that starts offset bytes into the body.
func (v *valueSource) checkBody(piece []byte, salt uint32, offset int) bool {
	from := int(salt) + offset
	return from+len(piece) <= len(v.block) && bytes.Equal(piece, v.block[from:from+len(piece)])
}

// identity mixes key and size into 64 bits (the finalizer of splitmix64).
func identity(key uint64, size uint32) uint64 {
	x := key*0x9e3779b97f4a7c15 + uint64(size) + 1
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
