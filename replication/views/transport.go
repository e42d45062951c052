package views

import (
	"time"

	"github.com/hashicorp/raft"
)

// transport is raft's, with a way to say something to this process's own raft, and requests for votes that are not lost with a connection.
type transport struct {
	*raft.NetworkTransport
	server   string
	rpcs     chan raft.RPC
	quit     <-chan struct{}
	patience time.Duration
}

func newTransport(inner *raft.NetworkTransport, server string, patience time.Duration, quit <-chan struct{}) *transport {
	return &transport{NetworkTransport: inner, server: server, rpcs: make(chan raft.RPC), quit: quit, patience: patience}
}

// Consumer is where raft reads what others, or this process, say to it.
func (t *transport) Consumer() <-chan raft.RPC { return t.rpcs }

// run passes on what others say. raft's heartbeats take another way.
func (t *transport) run() {
	for {
		select {
		case rpc := <-t.NetworkTransport.Consumer():
			select {
			case t.rpcs <- rpc:
			case <-t.quit:
				return
			}
		case <-t.quit:
			return
		}
	}
}

// say gives raft a message as if it had come from another server, and waits until it has been answered.
func (t *transport) say(command any) {
	answer := make(chan raft.RPCResponse, 1)
	select {
	case t.rpcs <- raft.RPC{Command: command, RespChan: answer}:
	case <-t.quit:
		return
	}
	select {
	case <-answer:
	case <-t.quit:
	}
}

func (t *transport) header() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(t.server), Addr: t.EncodePeer(raft.ServerID(t.server), t.LocalAddr())}
}

// timeoutNow makes raft, if it is a follower, stand for election in the next term at once.
func (t *transport) timeoutNow() { t.say(&raft.TimeoutNowRequest{RPCHeader: t.header()}) }

// raise brings raft to a later term, as a follower. It is a request for a vote that nobody would grant: from a candidate without a log.
func (t *transport) raise(term uint64) {
	t.say(&raft.RequestVoteRequest{RPCHeader: t.header(), Term: term, Candidate: t.EncodePeer(raft.ServerID(t.server), t.LocalAddr()), LeadershipTransfer: true})
}

// RequestVote asks again when the connection breaks: it may be one to an earlier life of the server, and raft asks only once in an election.
// A voter that has granted its vote grants it again.
func (t *transport) RequestVote(id raft.ServerID, target raft.ServerAddress, q *raft.RequestVoteRequest, a *raft.RequestVoteResponse) error {
	began := time.Now()
	for {
		*a = raft.RequestVoteResponse{}
		err := t.NetworkTransport.RequestVote(id, target, q, a)
		if err == nil || time.Since(began) > t.patience {
			return err
		}
		select {
		case <-time.After(voteRetry):
		case <-t.quit:
			return err
		}
	}
}

// voteRetry is after which a vote is asked for again.
const voteRetry = 2 * time.Millisecond
