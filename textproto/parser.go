package textproto

import (
	"bytes"
	"encoding/binary"
)

// The limits of the protocol, in bytes.
const (
	// MaxKey is the longest key.
	MaxKey = 250
	// MaxLine is the longest line, its end included; what memcached's read buffer holds. The connection is
	// closed over a longer one. Lines of get, gets, gat and gats may be of any length: they come in portions
	// of at most this.
	MaxLine = 16384
	// MaxUnknownLine: once more than this has arrived of a line that does not begin with a command, and its
	// end has not, the connection is closed. (If the end came with it, such a line is answered ERROR.)
	MaxUnknownLine = 2048
	// MaxValue is the largest number of bytes that a storage command may declare.
	MaxValue = 1<<31 - 3
	// DefaultItemSizeMax is memcached's -I: 1 MB.
	DefaultItemSizeMax = 1 << 20
)

// Status is what Parser.Next found.
type Status uint8

const (
	// More: no whole request. Drop what was consumed, keep the rest, and call again with it and at least one
	// more byte; Parser.Want says how many there will have to be.
	More Status = iota
	// Ready: the Request is complete and correct. Run it.
	Ready
	// Reply: there is nothing to run. Send Request.Reply, which is empty if the client said noreply.
	Reply
	// TooLarge: a storage command (Command, Key and Noreply are set) whose item is larger than ItemSizeMax. Its
	// data block will be swallowed. A set removes the item stored under the key all the same, so that no
	// old value stays; then send Request.Reply, which is empty if the client said noreply.
	TooLarge
	// Close: send the replies to the requests before, then close the connection without a word.
	Close
)

// Parser reads the requests of one connection. Its zero value is ready for the first byte of a connection.
// It holds no bytes, only where it is; it is as small as that, and may be copied.
type Parser struct {
	// ItemSizeMax is the limit of ItemSize, in bytes; 0 stands for DefaultItemSizeMax. It may be changed
	// between requests.
	ItemSizeMax uint32

	state   state
	command Command // moreKeys: the command and exptime of the line
	exptime int64

	// inLine: bytes of the line in which there is no newline. awaitBlock: length of the request,
	// line and data block. swallowing: bytes to drop.
	count int
}

// state is where in the stream the next byte stands.
type state uint8

const (
	atStart    state = iota // before the first byte of the connection
	atLine                  // at the first byte of a request
	inLine                  // at the first byte of a request whose line has not ended yet
	awaitBlock              // at the first byte of a request whose data block has not ended yet
	swallowing              // in a data block that nobody wants
	skipLine                // in a line that has been answered with an error
	moreKeys                // in a get's line of which the keys so far have been handed out
	closed
)

// ItemSize is what memcached holds against the item size limit -I: the value with its "\r\n", the key
// with a NUL, flags if there are any, and a header of 48 bytes with 8 for the cas unique. Keeping to its
// rule makes the same items fit here as there.
func ItemSize(keyLen int, flags uint32, valueLen int) int {
	n := 48 + 8 + keyLen + 1 + valueLen + 2
	if flags != 0 {
		n += 4
	}
	return n
}

// Next takes the next request from the front of buf, which begins where the last call stopped consuming.
// It consumes n bytes of buf; n can be greater than 0 with every Status. req is valid with Ready, Reply
// and TooLarge. The work of all calls together is proportional to the bytes given, however they are cut.
func (p *Parser) Next(buf []byte, req *Request) (n int, st Status) {
	if p.state != atLine {
		return p.resume(buf, req)
	}
	return p.request(buf, 0, req)
}

// Want is how many bytes must be in buf at the next call after More for there to be any progress: for a
// storage command the length of the whole request, so that a caller can make room for a large value once
// and read straight into it.
func (p *Parser) Want() int {
	switch p.state {
	case awaitBlock:
		return p.count
	case inLine, moreKeys:
		return p.count + 1
	}
	return 1
}

// InBlock reports whether the line of a storage command has been read and its data block has not, which
// memcached's "stats conns" calls conn_nread.
func (p *Parser) InBlock() bool { return p.state == awaitBlock }

// Swallowing reports whether the data block of a refused item is being dropped, which memcached's "stats
// conns" calls conn_swallow.
func (p *Parser) Swallowing() bool { return p.state == swallowing }

// resume is Next in every state but atLine: it finishes what was begun, and goes on to the next request.
func (p *Parser) resume(buf []byte, req *Request) (n int, st Status) {
	switch p.state {
	case atStart:
		if len(buf) == 0 {
			return 0, More
		}
		if buf[0] == 0x80 { // the binary protocol: no line will come, the client would wait for ever
			p.state = closed
			return 0, Close
		}
	case inLine:
		searched := p.count
		p.state, p.count = atLine, 0
		return p.request(buf, searched, req)
	case awaitBlock:
		if len(buf) < p.count {
			return 0, More
		}
		// Reading the line again costs less than keeping what it said.
	case swallowing:
		n = min(len(buf), p.count)
		if p.count -= n; p.count > 0 {
			return n, More
		}
	case skipLine:
		i := bytes.IndexByte(buf, '\n')
		if i < 0 {
			return len(buf), More
		}
		n = i + 1
	case moreKeys:
		return p.nextKeys(buf, req)
	case closed:
		return 0, Close
	}
	p.state, p.count = atLine, 0
	used, st := p.request(buf[n:], 0, req)
	return n + used, st
}

// First words that are recognised as one 32-bit number.
const (
	wordGet = 'g' | 'e'<<8 | 't'<<16 | ' '<<24
	wordSet = 's' | 'e'<<8 | 't'<<16 | ' '<<24
)

// request reads a request that begins at buf[0], of whose line the first searched bytes hold no newline.
// p.state is atLine, and stays so if the request is consumed.
func (p *Parser) request(buf []byte, searched int, req *Request) (n int, st Status) {
	i := bytes.IndexByte(buf[searched:min(len(buf), MaxLine)], '\n')
	if i < 0 {
		return p.unfinished(buf, req)
	}
	end := searched + i
	n = end + 1
	req.Noreply, req.Partial = false, false
	if n < 4 { // memcached: too short for any command, and nothing else is looked at
		return n, refuse(req, ReplyBadFormat)
	}
	if buf[end-1] == '\r' {
		end--
	}
	line := buf[:end]
	switch binary.LittleEndian.Uint32(buf) {
	case wordGet:
		req.Command = Get
		return n, req.setKeys(line[4:])
	case wordSet:
		return p.storage(Set, buf, n, line[4:], req)
	}
	word, args := cut(line)
	cmd, known := lookUp(word)
	if !known {
		return n, p.unknown(line, req)
	}
	if cmd.IsStorage() {
		return p.storage(cmd, buf, n, args, req)
	}
	return n, simple(cmd, args, req)
}

// unfinished is request for a line whose end has not come, or not within MaxLine bytes.
func (p *Parser) unfinished(buf []byte, req *Request) (n int, st Status) {
	if len(buf) > MaxUnknownLine {
		word, args := cut(buf[:min(len(buf), MaxLine)])
		cmd, known := lookUp(word)
		long := len(buf) >= MaxLine
		if !known || long && !cmd.IsRetrieval() {
			p.state = closed
			return 0, Close
		}
		if long {
			return p.firstKeys(cmd, word, args, req)
		}
	}
	p.state, p.count = inLine, len(buf)
	return 0, More
}

// cut divides a line after its first word. A line that begins with a space has an empty one, which is no
// command.
func cut(line []byte) (word, args []byte) {
	if i := bytes.IndexByte(line, ' '); i >= 0 {
		return line[:i], line[i:]
	}
	return line, nil
}

// lookUp finds the command that word is.
func lookUp(word []byte) (cmd Command, known bool) {
	switch string(word) { // does not allocate
	case "get":
		return Get, true
	case "gets":
		return Gets, true
	case "gat":
		return Gat, true
	case "gats":
		return Gats, true
	case "set":
		return Set, true
	case "add":
		return Add, true
	case "replace":
		return Replace, true
	case "append":
		return Append, true
	case "prepend":
		return Prepend, true
	case "cas":
		return Cas, true
	case "delete":
		return Delete, true
	case "incr":
		return Incr, true
	case "decr":
		return Decr, true
	case "touch":
		return Touch, true
	case "flush_all":
		return FlushAll, true
	case "version":
		return Version, true
	case "verbosity":
		return Verbosity, true
	case "quit":
		return Quit, true
	case "stats":
		return Stats, true
	case "watch":
		return Watch, true
	case "shutdown":
		return Shutdown, true
	case "cache_memlimit":
		return CacheMemlimit, true
	case "lru_crawler":
		return CrawlerDump, true
	case "slabs":
		return slabs, true
	case "lru":
		return lru, true
	case "extstore":
		return extstore, true
	}
	return Unknown, false
}

// unknown answers a line that begins with no command.
func (p *Parser) unknown(line []byte, req *Request) Status {
	last := lastToken(line)
	req.Noreply = string(last) == noreply
	if bytes.HasPrefix(last, []byte("HTTP/")) && bytes.IndexByte(line, ' ') >= 0 {
		p.state = closed // a browser, or somebody who makes one send us commands in a POST
		return Close
	}
	req.Command = Unknown
	return refuse(req, ReplyError)
}

const noreply = "noreply"

// refuse answers the request with an error, unless it said noreply.
func refuse(req *Request, reply string) Status {
	if req.Noreply {
		reply = ""
	}
	req.Reply = reply
	return Reply
}
