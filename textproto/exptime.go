package textproto

import "math"

const (
	// Never is the absolute exptime of an item that does not expire.
	Never uint32 = 0
	// Expired is an absolute exptime that has passed at any time: of an item that is stored, and gone at once.
	Expired uint32 = 1

	// relativeSeconds is the largest exptime that counts from now, 30 days; larger ones are Unix times.
	relativeSeconds = 60 * 60 * 24 * 30
)

// Absolute turns an exptime as clients write it into Unix seconds, now being the present in Unix seconds
// (protocol.txt, "Expiration times"): 0 is Never, negative is Expired, up to 30 days counts from now, more
// is a Unix time already, be it past. Times beyond 2106 become the last second of 32 bits.
func Absolute(exptime int64, now uint32) uint32 {
	switch {
	case exptime == 0:
		return Never
	case exptime < 0:
		return Expired
	case exptime <= relativeSeconds:
		exptime += int64(now)
	}
	return uint32(min(exptime, math.MaxUint32))
}
