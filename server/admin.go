package server

import (
	"strconv"
	"sync"
	"time"

	"hermesd/replication"
	"hermesd/textproto"
)

// admin runs the commands of operators.
func (c *conn) admin(w *worker) {
	req := &w.req
	switch req.Command {
	case textproto.Version:
		out := c.output(w)
		*out = textproto.AppendVersion(*out, ProtocolVersion+"-hermesd-"+Version)
	case textproto.Verbosity:
		c.s.verbosity.Store(int64(req.Level))
		if set := c.s.cfg.SetVerbosity; set != nil {
			set(int(req.Level))
		}
		c.acknowledge(w, textproto.ReplyOK)
	case textproto.Stats:
		c.stats(w)
	case textproto.CacheMemlimit:
		// The memory is mapped at the start: its size can be confirmed, and not changed.
		if uint64(req.MemoryMB)<<20 == c.s.cfg.MemoryBytes {
			c.acknowledge(w, textproto.ReplyOK)
		} else {
			c.acknowledge(w, textproto.ReplyMemlimitFailed)
		}
	case textproto.Shutdown:
		c.acknowledge(w, textproto.ReplyShutdownDisabled)
	case textproto.Watch:
		c.reply(w, textproto.ReplyWatchNotAllowed)
	case textproto.CrawlerDump:
		c.acknowledge(w, textproto.ReplyDumpNotAllowed)
	default:
		panic("server: no such command: " + req.Command.String())
	}
}

// acknowledge answers, unless the client said noreply.
func (c *conn) acknowledge(w *worker, text string) {
	if !w.req.Noreply {
		c.reply(w, text)
	}
}

// flushAll runs flush_all, now or later.
func (c *conn) flushAll(w *worker) {
	req := &w.req
	at := textproto.Absolute(req.Exptime, w.now)
	if at > w.now {
		c.s.flush.schedule(time.Unix(int64(at), 0))
		w.add(cmdFlush, 1)
		c.acknowledge(w, textproto.ReplyOK)
		return
	}
	c.s.flush.cancel() // the later flush replaces the one that has not come yet, as in memcached
	op := w.op
	op.Kind, op.Key, op.Value, op.Hash = replication.OpFlush, nil, nil, 0
	if !c.submit(w, slotUpdate, req.Noreply) {
		return
	}
	w.countResult(op)
	if !req.Noreply {
		out := c.output(w)
		*out = appendResult(*out, op)
	}
}

// holdFlush puts a flush_all back in front of the input. A flush concerns all keys, and would overtake the updates of the
// same pipeline that still wait for theirs.
func (c *conn) holdFlush(w *worker, data []byte) []byte {
	line := append(make([]byte, 0, len(data)+64), textproto.FlushAll.String()+" "...)
	line = strconv.AppendInt(line, w.req.Exptime, 10)
	if w.req.Noreply {
		line = append(line, " noreply"...)
	}
	return append(append(line, "\r\n"...), data...)
}

// delayedFlush is the flush_all that is to come, of which there is one at most, as in memcached. It is this replica's: should
// it end before the time comes, there will be no flush.
type delayedFlush struct {
	s     *Server
	mu    sync.Mutex
	timer *time.Timer
	turn  uint64 // counts schedule and cancel: a flush of an earlier turn gives up
}

// flushRetry is how long after a flush that could not be done it is tried again.
const flushRetry = time.Second

func (d *delayedFlush) schedule(at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.turn++
	d.arm(time.Until(at))
}

// arm sets the timer for the present turn. mu is held.
func (d *delayedFlush) arm(delay time.Duration) {
	if d.timer != nil {
		d.timer.Stop()
	}
	if turn := d.turn; !d.s.stopping.Load() {
		d.timer = time.AfterFunc(delay, func() { d.run(turn) })
	}
}

func (d *delayedFlush) cancel() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.turn++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// run is called when the time of a turn has come.
func (d *delayedFlush) run(turn uint64) {
	d.mu.Lock()
	late := d.turn != turn
	d.mu.Unlock()
	if late {
		return
	}
	op := d.s.store.NewOp()
	op.Kind, op.Client, op.Now, op.Tag = replication.OpFlush, d, uint32(time.Now().Unix()), turn
	if d.s.store.FlushAll(op) {
		d.Done(op)
	}
	d.s.store.Flush()
}

// Done implements replication.Client.
func (d *delayedFlush) Done(op *replication.Op) replication.Flusher {
	if op.Result.Status == replication.Unavailable {
		d.mu.Lock()
		if d.turn == op.Tag {
			d.s.log.Warn().Str("reason", op.Result.Err).Msg("a delayed flush_all could not be done; trying again")
			d.arm(flushRetry)
		}
		d.mu.Unlock()
	}
	d.s.store.FreeOp(op)
	return nil
}

// stats answers the stats command.
func (c *conn) stats(w *worker) {
	out := c.output(w)
	word, _ := w.req.NextArg()
	switch string(word) {
	case "":
		*out = c.s.appendStats(*out)
	case "reset":
		c.s.resetStats()
		*out = append(*out, textproto.ReplyReset...)
		return
	case "settings":
		*out = c.s.appendSettings(*out)
	case "conns":
		*out = c.s.appendConns(*out, c, w.now)
	case "replication":
		*out = c.s.appendReplication(*out)
	case "items":
	case "slabs":
		// There are no slab classes. total_malloced is what they would take their pages from.
		*out = textproto.AppendStatUint(*out, "active_slabs", 0)
		*out = textproto.AppendStatUint(*out, "total_malloced", c.s.cfg.MemoryBytes)
	case "sizes":
		*out = textproto.AppendStat(*out, "sizes_status", "disabled")
	case "extstore":
	case "cachedump":
		*out = append(*out, textproto.ReplyCachedumpNotAllowed...)
		return
	case "detail":
		*out = append(*out, textproto.ReplyDetailNotAllowed...)
		return
	default:
		*out = append(*out, textproto.ReplyError...)
		return
	}
	*out = append(*out, textproto.ReplyEnd...)
}

// appendConns answers stats conns: one block for each listener and client, by descriptor.
func (s *Server) appendConns(dst []byte, asking *conn, now uint32) []byte {
	for _, a := range s.acceptors {
		prefix := strconv.Itoa(a.fd) + ":"
		dst = textproto.AppendStat(dst, prefix+"addr", "tcp:"+a.Addr().String())
		dst = textproto.AppendStat(dst, prefix+"state", "conn_listening")
		dst = textproto.AppendStatUint(dst, prefix+"secs_since_last_cmd", uint64(now-uint32(s.started.Unix())))
	}
	for _, c := range s.connections() {
		state, locked := "conn_parse_cmd", false
		if c != asking {
			locked = c.mu.TryLock() // one that is at work is not waited for
		}
		if locked {
			state = c.stateName()
		}
		fd, last := c.fd, c.lastCommand
		if locked {
			c.unlock()
		} else if c != asking {
			continue // what else there is to say of it would be read while it changes
		}
		if fd < 0 {
			continue
		}
		prefix := strconv.Itoa(fd) + ":"
		dst = textproto.AppendStat(dst, prefix+"addr", "tcp:"+c.peer.String())
		dst = textproto.AppendStat(dst, prefix+"listen_addr", "tcp:"+s.Addr().String())
		dst = textproto.AppendStat(dst, prefix+"state", state)
		dst = textproto.AppendStatUint(dst, prefix+"secs_since_last_cmd", uint64(max(now, last)-last))
	}
	return dst
}

// stateName is memcached's name for what the connection is doing. mu is held.
func (c *conn) stateName() string {
	switch {
	case c.closing:
		return "conn_closing"
	case c.blocked:
		return "conn_mwrite"
	case c.parser.InBlock():
		return "conn_nread"
	case c.parser.Swallowing():
		return "conn_swallow"
	case c.queue.waiting > 0:
		return "conn_io_queue"
	}
	return "conn_read"
}
