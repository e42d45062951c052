package replication

// RefuseRoom answers the operations that have waited for Env.Admit for longer than patience, in the unit of Env.Now, with OutOfMemory. None of them has
// happened or will. It is for stores that do not evict: there a wait may have no end.
func (l *Lane) RefuseRoom(patience uint64) {
	if !l.WaitsForRoom() {
		return
	}
	now := l.env.Now()
	for q := l.queues.first; q != nil; {
		next := q.next
		if q.wait == untilRoom && q.head != nil && passed(q.head.started, now) > patience {
			op := q.pop()
			l.queues.waiting--
			op.Result = Result{Status: OutOfMemory, Value: op.Result.Value[:0]}
			l.finish(op)
			l.drain(q)
		}
		q = next
	}
}
