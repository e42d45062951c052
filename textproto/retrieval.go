package textproto

import "bytes"

// setKeys takes the rest of a get's line after the command (and exptime). All keys are checked before the
// first is handed out: an over-long key anywhere makes the error the whole reply to the line, as in
// memcached, and nobody has to take back items that were already written.
func (r *Request) setKeys(line []byte) Status {
	first, rest := nextToken(line)
	if len(first) == 0 || len(first) > MaxKey || len(rest) != 0 && !keysFit(rest) {
		return refuse(r, ReplyBadFormat)
	}
	// The first key is the only one mostly: NextKey need not look for its end again.
	r.keys, r.known = line[len(line)-len(rest)-len(first):], len(first)
	return Ready
}

// keysFit reports whether no key in line is over-long.
func keysFit(line []byte) bool {
	for len(line) > MaxKey {
		i := bytes.IndexByte(line[:MaxKey+1], ' ')
		if i < 0 {
			return false
		}
		line = line[i+1:]
	}
	return true
}

// setGat reads what follows gat or gats: <exptime> <key>+.
func (r *Request) setGat(args []byte) Status {
	exptime, keys := nextNumber(args)
	if first, _ := nextToken(keys); len(first) == 0 {
		return refuse(r, ReplyBadFormat)
	}
	if st := r.setExptime(exptime); st != Ready {
		return st
	}
	return r.setKeys(keys)
}

// The line of a get may have more keys than a connection can be allowed to buffer. Once MaxLine bytes of a
// line (or of what is left of it) have come without its end, the keys that are complete are handed out as a
// request of their own, Partial. Where a line is cut depends on its bytes only, not on the reads.

// firstKeys begins such a line: word is its command, args the rest of its first MaxLine bytes.
func (p *Parser) firstKeys(cmd Command, word, args []byte, req *Request) (n int, st Status) {
	req.Command, req.Noreply, req.Partial = cmd, false, true
	complete := args[:bytes.LastIndexByte(args, ' ')+1]
	if cmd == Get || cmd == Gets {
		st = req.setKeys(complete)
	} else {
		st = req.setGat(complete)
	}
	p.command, p.exptime = cmd, req.Exptime
	p.state, p.count = moreKeys, 0
	if st != Ready {
		p.state = skipLine
	}
	return len(word) + len(complete), st
}

// nextKeys goes on with such a line. buf begins with a key or a space; p.count bytes of it have been seen,
// and the line does not end in them.
func (p *Parser) nextKeys(buf []byte, req *Request) (n int, st Status) {
	window := buf[:min(len(buf), MaxLine)]
	end := bytes.IndexByte(window[p.count:], '\n')
	if end < 0 && len(window) < MaxLine {
		p.count = len(window)
		return 0, More
	}
	req.Command, req.Exptime = p.command, p.exptime
	req.Noreply, req.Partial, req.known = false, end < 0, 0
	if req.Partial {
		n = bytes.LastIndexByte(window, ' ') + 1
		req.keys = window[:n]
	} else {
		end += p.count
		n = end + 1
		req.keys = bytes.TrimSuffix(window[:end], []byte{'\r'})
		p.state = atLine
	}
	p.count = 0
	if n == 0 || !keysFit(req.keys) { // n == 0: the window is all one key
		if req.Partial {
			p.state = skipLine
		}
		return n, refuse(req, ReplyBadFormat)
	}
	return n, Ready
}
