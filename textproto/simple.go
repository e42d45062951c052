package textproto

// simple reads every command that is one line and no more. args is the line after the command.
//
// noreply counts if it is the last token, whatever else the line says; but a line with too few tokens is
// answered even so: memcached looks for noreply only after counting.
func simple(cmd Command, args []byte, req *Request) Status {
	req.Command = cmd
	switch cmd {
	case Gets:
		return req.setKeys(args)
	case Gat, Gats:
		return req.setGat(args)
	case Get: // without a space, and so without keys
		return refuse(req, ReplyBadFormat)
	case Delete:
		return req.setDelete(args)
	case Incr, Decr:
		return req.setDelta(args)
	case Touch:
		return req.setTouch(args)
	case Version, Quit: // whatever follows is ignored
		return Ready
	case Stats, Watch: // these know no noreply
		req.Args = args
		return Ready
	}
	req.setNoreply(args)
	switch cmd {
	case FlushAll:
		return req.setFlush(args)
	case Verbosity:
		return req.setLevel(args)
	}
	return req.admin(cmd, args)
}

// setNoreply looks for noreply at the end of args.
func (r *Request) setNoreply(args []byte) { r.Noreply = string(lastToken(args)) == noreply }

// setKey takes the key of a command that has one.
func (r *Request) setKey(key []byte) (ok bool) {
	r.Key = key
	return len(key) <= MaxKey
}

// setDelete reads what follows delete: <key> [0] [noreply]. The 0 was a delay once, and old clients send it.
// memcached 1.6.45 ignores whatever else follows; like those before it, and as memcapable wants, we refuse
// it: somebody who writes more means something that will not happen.
func (r *Request) setDelete(args []byte) Status {
	key, rest := nextToken(args)
	if len(key) == 0 {
		return refuse(r, ReplyBadFormat)
	}
	r.setNoreply(args)
	if len(rest) != 0 {
		extra, more := nextToken(rest)
		if string(extra) == "0" {
			extra, more = nextToken(more)
		}
		if string(extra) == noreply {
			extra, _ = nextToken(more)
		}
		if len(extra) != 0 {
			return refuse(r, ReplyDeleteUsage)
		}
	}
	if !r.setKey(key) {
		return refuse(r, ReplyBadFormat)
	}
	return Ready
}

// setDelta reads what follows incr or decr: <key> <delta> [noreply].
func (r *Request) setDelta(args []byte) Status {
	key, rest := nextToken(args)
	delta, _ := nextNumber(rest)
	if len(delta) == 0 {
		return refuse(r, ReplyBadFormat)
	}
	r.setNoreply(args)
	if !r.setKey(key) {
		return refuse(r, ReplyBadFormat)
	}
	var ok bool
	if r.Delta, ok = parseUint64(delta); !ok {
		return refuse(r, ReplyInvalidDelta)
	}
	return Ready
}

// setTouch reads what follows touch: <key> <exptime> [noreply].
func (r *Request) setTouch(args []byte) Status {
	key, rest := nextToken(args)
	exptime, _ := nextNumber(rest)
	if len(exptime) == 0 {
		return refuse(r, ReplyBadFormat)
	}
	r.setNoreply(args)
	if !r.setKey(key) {
		return refuse(r, ReplyBadFormat)
	}
	return r.setExptime(exptime)
}

// setFlush reads what follows flush_all: [exptime] [noreply].
func (r *Request) setFlush(args []byte) Status {
	r.Exptime = 0
	exptime, rest := nextToken(args)
	if more, _ := nextToken(rest); len(exptime) == 0 || string(exptime) == noreply && len(more) == 0 {
		return Ready
	}
	return r.setExptime(exptime)
}

// setExptime reads the exptime of touch, gat and flush_all.
func (r *Request) setExptime(token []byte) Status {
	seconds, ok := parseInt32(token)
	if !ok {
		return refuse(r, ReplyInvalidExptime)
	}
	r.Exptime = int64(seconds)
	return Ready
}

// setLevel reads what follows verbosity: <level> [noreply].
func (r *Request) setLevel(args []byte) Status {
	token, _ := nextToken(args)
	level, ok := parseUint32(token)
	if !ok {
		return refuse(r, ReplyBadFormat)
	}
	r.Level = uint8(min(level, 2))
	return Ready
}
