package replication

// Abandon answers everything that waits or is in flight with Unavailable, and forgets it: the replica is going away.
func (l *Lane) Abandon(why string) {
	l.traceLane(StepEnd)
	for _, op := range l.flight.slots {
		if op != nil {
			l.flight.remove(op)
			l.abandon(op, why)
		}
	}
	for l.queues.first != nil {
		q := l.queues.first
		for q.head != nil {
			l.queues.waiting--
			l.abandon(q.pop(), why)
		}
		l.queues.release(q)
	}
}

func (l *Lane) abandon(op *Op, why string) {
	op.Result = Result{Status: Unavailable, Err: why, Value: op.Result.Value[:0]}
	l.finish(op)
}
