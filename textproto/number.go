package textproto

import "math"

// memcached reads numbers in two ways, and clients see the difference.
//
// Byte counts, deltas, cas uniques and the exptime of touch, gat and flush_all are plain digits in the
// range of their type; only the signed ones may begin with '-'. Leading zeros count towards a limit of
// the length.
//
// The flags and exptime of the storage commands go through C's strtoul and strtol: blanks of every kind
// and a sign may precede the digits, and what does not fit in 32 bits loses its upper half. Some
// clients have come to send negative or 64-bit numbers there, so this is kept.

const (
	maxDigits32 = 11 // a token longer than this is no 32-bit number, whatever its digits
	maxDigits64 = 22

	maxTenth = math.MaxUint64 / 10 // n*10 + d fits in 64 bits if n is below this, or equal and d at most 5
)

// parseInt32 reads a signed number of plain digits. A lone "-" is 0, as in memcached.
func parseInt32(token []byte) (v int32, ok bool) {
	if len(token) == 0 || len(token) > maxDigits32 {
		return 0, false
	}
	limit, negative := int64(math.MaxInt32), false
	if token[0] == '-' {
		token, limit, negative = token[1:], -math.MinInt32, true
	}
	var n int64 // 11 digits are below 2^63
	for _, c := range token {
		d := c - '0'
		if d > 9 {
			return 0, false
		}
		n = n*10 + int64(d)
	}
	if n > limit {
		return 0, false
	}
	if negative {
		n = -n
	}
	return int32(n), true
}

// parseUint32 reads a number of plain digits.
func parseUint32(token []byte) (v uint32, ok bool) {
	if len(token) > maxDigits32 {
		return 0, false
	}
	n, ok := parseUint64(token)
	return uint32(n), ok && n <= math.MaxUint32
}

// parseUint64 reads a number of plain digits.
func parseUint64(token []byte) (v uint64, ok bool) {
	if len(token) == 0 || len(token) > maxDigits64 {
		return 0, false
	}
	var n uint64
	for _, c := range token {
		d := uint64(c - '0')
		if d > 9 || n >= maxTenth && (n > maxTenth || d > 5) {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}

// looseDigits is the part that strtoul and strtol share: blanks, a sign and digits at the beginning of s,
// with a blank or the end of s after them. ok is false if there are no digits, something else follows
// them, or they do not fit in 64 bits. s may go on beyond the token, to the end of the line: C does.
func looseDigits(s []byte) (n uint64, negative, ok bool) {
	i := 0
	for i < len(s) && isBlank(s[i]) {
		i++
	}
	if i < len(s) && (s[i] == '+' || s[i] == '-') {
		negative = s[i] == '-'
		i++
	}
	first := i
	for ; i < len(s) && s[i]-'0' <= 9; i++ {
		d := uint64(s[i] - '0')
		if n >= maxTenth && (n > maxTenth || d > 5) {
			return 0, false, false
		}
		n = n*10 + d
	}
	if i == first || i < len(s) && s[i] != 0 && !isBlank(s[i]) {
		return 0, false, false
	}
	return n, negative, true
}

// looseUint32 reads the flags of a storage command.
func looseUint32(s []byte) (v uint32, ok bool) {
	n, negative, ok := looseDigits(s)
	if !ok {
		return 0, false
	}
	if negative {
		if n = -n; int64(n) < 0 { // strtoul wraps round; the wrapped number is then looked at
			return 0, false
		}
	}
	return uint32(n), true
}

// looseInt32 reads the exptime of a storage command.
func looseInt32(s []byte) (v int32, ok bool) {
	n, negative, ok := looseDigits(s)
	switch {
	case !ok:
		return 0, false
	case negative:
		return int32(-n), n <= -math.MinInt64
	}
	return int32(n), n <= math.MaxInt64
}

// isBlank is C's isspace.
func isBlank(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }
