package views

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	boltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/rs/zerolog"
	"go.etcd.io/bbolt"
)

// raftStore is where raft keeps its log, its term and vote, and its snapshots.
type raftStore struct {
	raft.LogStore
	stable    *patientStore
	snapshots raft.SnapshotStore
	closer    io.Closer
}

// openRaft opens raft's part of the data directory.
func (s *Store) openRaft(log zerolog.Logger, logger hclog.Logger) (*raftStore, error) {
	if s.dir == "" {
		mem := raft.NewInmemStore()
		return &raftStore{LogStore: mem, stable: &patientStore{StableStore: mem, log: log}, snapshots: raft.NewInmemSnapshotStore()}, nil
	}
	bolt, err := boltdb.New(boltdb.Options{Path: s.raftFile(), BoltOptions: &bbolt.Options{Timeout: time.Second}})
	if err != nil {
		return nil, fmt.Errorf("data directory %s: raft's log: %w", s.dir, err)
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(s.dir, 2, logger)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("data directory %s: raft's snapshots: %w", s.dir, err), bolt.Close())
	}
	return &raftStore{LogStore: bolt, stable: &patientStore{StableStore: bolt, log: log}, snapshots: snapshots, closer: bolt}, nil
}

func (s *raftStore) Close() error {
	if s.closer == nil {
		return nil
	}
	return s.closer.Close()
}

// patientStore keeps raft's term and vote. Raft panics when they cannot be written, and that would end the whole process and its items with it,
// because a disk is full. So a write is tried until it succeeds; meanwhile this server votes for nobody, and its
// replica serves as long as the others renew its lease.
type patientStore struct {
	raft.StableStore
	log     zerolog.Logger
	closing atomic.Bool
	stuck   atomic.Pointer[string] // what fails, in words
}

// retryStore is how long after a failed write the next one is tried.
const retryStore = 200 * time.Millisecond

var errClosing = errors.New("the control plane is being closed")

func (p *patientStore) Set(key, value []byte) error {
	return p.insist(func() error { return p.StableStore.Set(key, value) })
}

func (p *patientStore) SetUint64(key []byte, value uint64) error {
	return p.insist(func() error { return p.StableStore.SetUint64(key, value) })
}

func (p *patientStore) insist(write func() error) error {
	for tries := 0; ; tries++ {
		err := write()
		if err == nil {
			if tries > 0 {
				p.log.Info().Int("tries", tries).Msg("data directory: raft's vote can be written again")
			}
			p.stuck.Store(nil)
			return nil
		}
		why := "the data directory takes no writes: " + err.Error()
		p.stuck.Store(&why)
		if tries%50 == 0 {
			p.log.Error().Err(err).Msg("data directory: raft's vote cannot be written; this server takes no part in elections until it can; make room")
		}
		if p.closing.Load() {
			select {} // raft would panic; the process is about to end
		}
		time.Sleep(retryStore)
	}
}

// quietLogger hands raft's warnings to the log at the debug level. What an operator has to know is logged by the driver.
func quietLogger(log zerolog.Logger) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "raft", Level: hclog.Warn, DisableTime: true, Output: debugWriter{log}})
}

type debugWriter struct{ log zerolog.Logger }

func (w debugWriter) Write(b []byte) (int, error) {
	text := b
	if n := len(text); n > 0 && text[n-1] == '\n' {
		text = text[:n-1]
	}
	w.log.Debug().Msg(string(text))
	return len(b), nil
}
