package server

import (
	"strconv"

	"hermesd/replication"
	"hermesd/table"
	"hermesd/textproto"
)

// reply answers a request at once, in its turn.
func (c *conn) reply(w *worker, text string) {
	if c.queue.empty() {
		w.out = append(w.out, text...)
	} else {
		c.queue.held = append(c.queue.held, text...)
	}
}

// output is where the bytes of the next reply go.
func (c *conn) output(w *worker) *[]byte {
	if c.queue.empty() {
		return &w.out
	}
	return &c.queue.held
}

// execute runs the request that was parsed, w.req. data is the input that follows it; what is returned is the
// input to go on with.
func (c *conn) execute(w *worker, data []byte) []byte {
	req := &w.req
	c.lastOp, c.lastCommand = req.Command, w.now
	switch req.Command {
	case textproto.Get, textproto.Gets:
		return c.get(w, data)
	case textproto.Gat, textproto.Gats:
		return c.getAndTouch(w, data)
	case textproto.Set, textproto.Add, textproto.Replace, textproto.Append, textproto.Prepend, textproto.Cas:
		op := w.op
		op.Kind = storageKinds[req.Command-textproto.Set]
		op.Value = req.Value
		op.Flags, op.CAS = req.Flags, req.CAS
		op.Exptime = textproto.Absolute(req.Exptime, w.now)
		w.add(cmdSet, 1)
		c.update(w)
	case textproto.Delete:
		w.op.Kind = replication.OpDelete
		c.update(w)
	case textproto.Incr, textproto.Decr:
		w.op.Kind, w.op.Delta = replication.OpIncr, req.Delta
		if req.Command == textproto.Decr {
			w.op.Kind = replication.OpDecr
		}
		c.update(w)
	case textproto.Touch:
		w.op.Kind, w.op.Exptime = replication.OpTouch, textproto.Absolute(req.Exptime, w.now)
		c.update(w)
	case textproto.FlushAll:
		if c.barrier = c.queue.waiting > 0; c.barrier {
			return c.holdFlush(w, data)
		}
		c.flushAll(w)
	case textproto.Quit:
		c.closing = true
	default:
		c.admin(w)
	}
	return data
}

// storageKinds are the operations of the commands from textproto.Set on.
var storageKinds = [...]replication.OpKind{replication.OpSet, replication.OpAdd, replication.OpReplace,
	replication.OpAppend, replication.OpPrepend, replication.OpCAS}

// update runs w.op on the key of the request.
func (c *conn) update(w *worker) {
	op, req := w.op, &w.req
	op.Key = req.Key
	op.Hash = table.Hash(op.Key)
	if req.Command > textproto.Cas {
		op.Value = nil
	}
	if !c.submit(w, slotUpdate, req.Noreply) {
		return
	}
	w.countResult(op)
	if !req.Noreply {
		out := c.output(w)
		*out = appendResult(*out, op)
	}
}

// tooLarge answers a storage command whose item exceeds the limit. A set removes the old item, as in memcached: a
// client that goes on to read must not be served what it wanted to replace.
func (c *conn) tooLarge(w *worker) {
	req := &w.req
	w.add(storeTooLarge, 1)
	if req.Command == textproto.Set {
		op := w.op
		op.Kind, op.Key, op.Value = replication.OpDelete, req.Key, nil
		op.Hash = table.Hash(op.Key)
		if !c.submit(w, slotTooLarge, req.Noreply) {
			return
		}
	}
	c.reply(w, req.Reply)
}

// get answers get and gets. The values are copied from the table straight into the output.
func (c *conn) get(w *worker, data []byte) []byte {
	req, store := &w.req, c.s.store
	withCAS := req.Command == textproto.Gets
	var hits, misses uint64
	c.skipFailed()
	for !c.skipping {
		key, ok := req.NextKey()
		if !ok {
			break
		}
		hash := table.Hash(key)
		for again := true; again; {
			again = false
			status, ticket := replication.ReadUnavailable, replication.Ticket{}
			if w.serves {
				ticket, status = store.View(hash, key, w.now, &w.item)
			}
			switch status {
			case replication.ReadHit:
				out := c.output(w)
				mark := len(*out)
				*out = appendView(*out, store, hash, key, &w.item, withCAS)
				if store.Confirm(ticket) {
					hits++
				} else {
					*out, again = (*out)[:mark], true
				}
			case replication.ReadMiss:
				misses++
			case replication.ReadExpired:
				misses++
				w.add(getExpired, 1)
			case replication.ReadWait:
				c.getWaiting(w, replication.OpGet, hash, key, withCAS)
			case replication.ReadUnavailable:
				c.failGet(w)
			}
		}
		if c.crowded(w) {
			if data, ok = c.postpone(w, data); ok {
				req.Partial = true // the rest comes, and then the end
				break
			}
		}
	}
	if hits != 0 {
		w.add(getHits, hits)
	}
	if misses != 0 {
		w.add(getMisses, misses)
	}
	c.endGet(w)
	return data
}

// appendView appends the item that View has found.
func appendView(dst []byte, store Store, hash uint64, key []byte, it *table.Item, withCAS bool) []byte {
	if withCAS {
		dst = textproto.AppendValueHeaderCAS(dst, key, it.Flags, it.ValueLen, it.CAS)
	} else {
		dst = textproto.AppendValueHeader(dst, key, it.Flags, it.ValueLen)
	}
	dst = store.AppendValue(dst, hash, it)
	return append(dst, textproto.EndOfValue...)
}

// getAndTouch answers gat and gats: an update for each key.
func (c *conn) getAndTouch(w *worker, data []byte) []byte {
	req := &w.req
	withCAS := req.Command == textproto.Gats
	exptime := textproto.Absolute(req.Exptime, w.now)
	c.skipFailed()
	for !c.skipping {
		key, ok := req.NextKey()
		if !ok {
			break
		}
		w.op.Exptime = exptime
		c.getWaiting(w, replication.OpGat, table.Hash(key), key, withCAS)
		if c.crowded(w) {
			if data, ok = c.postpone(w, data); ok {
				req.Partial = true
				break
			}
		}
	}
	c.endGet(w)
	return data
}

// getWaiting gets one key by an operation of the Store.
func (c *conn) getWaiting(w *worker, kind replication.OpKind, hash uint64, key []byte, withCAS bool) {
	op := w.op
	op.Kind, op.Hash, op.Key, op.Value = kind, hash, key, nil
	slot := slotValue
	if withCAS {
		slot = slotValueCAS
	}
	if !c.submit(w, slot, false) {
		c.inSlots = true
		return
	}
	w.countResult(op)
	out := c.output(w)
	*out, c.skipping = appendItem(*out, op, withCAS)
}

// failGet answers a get of which a key cannot be read: an error, and nothing after it.
func (c *conn) failGet(w *worker) {
	w.add(unavailable, 1)
	out := c.output(w)
	*out = textproto.AppendServerError(*out, c.s.store.Reason())
	c.skipping = true
}

// skipFailed is called before a get is run, or goes on after a pause: if a key of its first part could not be read, and that has
// been said, the rest of its keys is passed over.
func (c *conn) skipFailed() {
	if c.silenced && c.queue.empty() {
		c.skipping = true
	}
}

// endGet ends the reply to a get, unless more of its line is to come.
func (c *conn) endGet(w *worker) {
	switch {
	case w.req.Partial:
		return
	case c.inSlots:
		kind := slotEnd
		if c.skipping {
			kind = slotNoEnd
		}
		c.queue.push(kind, true)
		c.answer(w) // if the get had to pause, its values may have been answered meanwhile
	case !c.skipping:
		c.reply(w, textproto.ReplyEnd)
	}
	c.inSlots, c.skipping = false, false
}

// crowded reports whether the client has had as much as it can be given now, be it that it does not read or that others want
// their turn. A get stops between two keys for it.
func (c *conn) crowded(w *worker) bool {
	if len(w.out) >= outputBytes {
		c.write(w)
		if w.written > passOutputBytes && !c.trouble.Load() {
			c.yielded = true
		}
	}
	return c.mustPause()
}

// postpone puts the keys of a get that have not been answered back in front of the input, as a request. ok is false if there are
// none.
func (c *conn) postpone(w *worker, data []byte) (_ []byte, ok bool) {
	req := &w.req
	key, ok := req.NextKey()
	if !ok {
		return data, false
	}
	line := make([]byte, 0, len(data)+textproto.MaxLine)
	if !req.Partial { // the parser is at the beginning of a line: this becomes one
		line = append(line, req.Command.String()...)
		if req.Command == textproto.Gat || req.Command == textproto.Gats {
			line = append(line, ' ')
			line = strconv.AppendInt(line, req.Exptime, 10)
		}
		line = append(line, ' ')
	}
	for ok {
		line = append(append(line, key...), ' ')
		key, ok = req.NextKey()
	}
	if !req.Partial {
		line = append(line, '\n')
	}
	return append(line, data...), true
}

// countResult counts the outcome of an operation as memcached does.
func (w *worker) countResult(op *replication.Op) {
	status := op.Result.Status
	switch status {
	case replication.OutOfMemory:
		w.add(storeNoMemory, 1)
		return
	case replication.Unavailable:
		w.add(unavailable, 1)
		return
	}
	switch op.Kind {
	case replication.OpGet:
		w.addEither(status == replication.Hit, getHits, getMisses)
	case replication.OpGat:
		w.addEither(status == replication.Hit, touchHits, touchMisses)
	case replication.OpTouch:
		w.addEither(status == replication.Touched, touchHits, touchMisses)
	case replication.OpDelete:
		w.addEither(status == replication.Deleted, deleteHits, deleteMisses)
	case replication.OpIncr:
		w.addEither(status != replication.NotFound, incrHits, incrMisses)
	case replication.OpDecr:
		w.addEither(status != replication.NotFound, decrHits, decrMisses)
	case replication.OpFlush:
		w.add(cmdFlush, 1)
	case replication.OpCAS:
		switch status {
		case replication.Stored:
			w.add(casHits, 1)
		case replication.Exists:
			w.add(casBadval, 1)
		default:
			w.add(casMisses, 1)
		}
	}
	if status == replication.Stored {
		w.add(totalItems, 1)
	}
}

func (w *worker) addEither(hit bool, hits, misses counter) {
	if hit {
		w.add(hits, 1)
	} else {
		w.add(misses, 1)
	}
}
