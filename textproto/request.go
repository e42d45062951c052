package textproto

import "bytes"

// Request is one request, as Parser.Next fills it in. A caller keeps one and uses it again and again.
//
// Slices point into the bytes that were given to Next: they are good until those are overwritten, and
// nothing may be written through them. Which fields a command fills in is said at the Command
// constants; other fields hold leftovers of earlier requests.
type Request struct {
	// Key is 1 to MaxKey bytes, any but space and newline.
	Key []byte
	// Value is the data block without its "\r\n".
	Value []byte
	// Args is the rest of the line after the command, without noreply; read it with NextArg.
	Args []byte
	// Reply is what to send after status Reply or TooLarge, with its "\r\n"; empty if the client said noreply.
	Reply string

	// Exptime is as the client wrote it, 32 bits, signed; Absolute makes a point in time of it.
	Exptime int64
	// CAS is the cas unique that a cas asks for.
	CAS uint64
	// Delta is what incr adds and decr subtracts.
	Delta uint64
	// MemoryMB is the argument of cache_memlimit, 8 to 1000000000 megabytes.
	MemoryMB uint32
	// Flags are the client's flags, to be stored and given back unchanged.
	Flags uint32

	Command Command
	// Level is the argument of verbosity, 0 to 2; larger numbers are cut, as memcached does.
	Level uint8
	// Noreply: the client wants no answer, whatever happens. Never set for retrievals.
	Noreply bool
	// Partial: these are not the last keys of the line. Answer them without END; the next request
	// of the connection has the same Command (and Exptime) and goes on with the line's keys.
	Partial bool

	keys  []byte // of a retrieval: what NextKey has still to give
	known int    // length of the key that keys begins with, if not 0
}

// NextKey gives the keys of a get, gets, gat or gats one by one, in the line's order. All have been
// checked: 1 to MaxKey bytes. A key that the client named twice comes twice.
func (r *Request) NextKey() (key []byte, ok bool) {
	if n := r.known; n != 0 {
		key, r.keys, r.known = r.keys[:n:n], r.keys[n:], 0
		return key, true
	}
	if len(r.keys) == 0 {
		return nil, false
	}
	key, r.keys = nextToken(r.keys)
	return key, len(key) != 0
}

// NextArg takes the next token from Args.
func (r *Request) NextArg() (arg []byte, ok bool) {
	arg, r.Args = nextToken(r.Args)
	return arg, len(arg) != 0
}

// nextToken cuts the first token off line; it is empty if there is none.
func nextToken(line []byte) (token, rest []byte) {
	i := 0
	for i < len(line) && line[i] == ' ' {
		i++
	}
	line = line[i:]
	if i = bytes.IndexByte(line, ' '); i < 0 {
		i = len(line)
	}
	return line[:i:i], line[i:]
}

// nextNumber is nextToken for tokens that are a few bytes mostly: looking at each of them is then faster.
func nextNumber(line []byte) (token, rest []byte) {
	i := 0
	for i < len(line) && line[i] == ' ' {
		i++
	}
	end := i
	for end < len(line) && line[end] != ' ' {
		end++
	}
	return line[i:end:end], line[end:]
}

// lastToken is the last token of line; it is empty if there is none.
func lastToken(line []byte) []byte {
	line = bytes.TrimRight(line, " ")
	return line[bytes.LastIndexByte(line, ' ')+1:]
}
