package textproto

// storage reads set, add, replace, append, prepend and cas:
//
//	<command> <key> <flags> <exptime> <bytes> [<cas unique>] [noreply]\r\n
//	<data block>\r\n
//
// args is the line, which is n bytes long at the front of buf, after its first word.
//
// The order of the checks is memcached's and can be seen: up to the byte count an error is sent even if
// the client said noreply, and the data block, whose length is not known then, is read as commands. After
// it errors keep quiet for noreply, and the block is swallowed.
func (p *Parser) storage(cmd Command, buf []byte, n int, args []byte, req *Request) (int, Status) {
	req.Command = cmd
	key, flags := nextToken(args)
	_, exptime := nextNumber(flags)
	_, rest := nextNumber(exptime)
	count, rest := nextNumber(rest)
	if len(count) == 0 {
		return n, refuse(req, ReplyBadFormat)
	}
	valueLen, ok := parseInt32(count)
	if !ok || valueLen < 0 || valueLen > MaxValue {
		return n, refuse(req, ReplyBadFormat)
	}
	if len(rest) != 0 {
		req.Noreply = string(lastToken(rest)) == noreply
	}
	blockLen := int(valueLen) + 2
	if !req.storageArgs(cmd, key, flags, exptime, rest) {
		p.state, p.count = swallowing, blockLen
		return n, refuse(req, ReplyBadFormat)
	}
	if p.exceeds(ItemSize(len(key), req.Flags, int(valueLen))) {
		p.state, p.count = swallowing, blockLen
		refuse(req, ReplyTooLarge)
		return n, TooLarge
	}
	whole := n + blockLen
	if len(buf) < whole {
		p.state, p.count = awaitBlock, whole
		return 0, More
	}
	if buf[whole-2] != '\r' || buf[whole-1] != '\n' {
		return whole, refuse(req, ReplyBadDataChunk)
	}
	valueEnd := whole - 2
	req.Value = buf[n:valueEnd:valueEnd]
	return whole, Ready
}

// storageArgs checks and fills in what a storage command says besides the length of its value. flags and
// exptime are the line from those on; rest is what follows the byte count.
func (r *Request) storageArgs(cmd Command, key, flags, exptime, rest []byte) (ok bool) {
	if len(key) > MaxKey {
		return false
	}
	r.Key = key
	var seconds int32
	if r.Flags, ok = looseUint32(flags); !ok {
		return false
	}
	if seconds, ok = looseInt32(exptime); !ok {
		return false
	}
	r.Exptime = int64(seconds)
	if cmd == Cas {
		unique, _ := nextNumber(rest)
		if r.CAS, ok = parseUint64(unique); !ok {
			return false
		}
	}
	return true
}

// exceeds reports whether an item of that ItemSize is over the limit.
func (p *Parser) exceeds(itemSize int) bool {
	limit := p.ItemSizeMax
	if limit == 0 {
		limit = DefaultItemSizeMax
	}
	return itemSize > int(limit)
}
