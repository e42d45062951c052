package views

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Store is what a process must remember when it is started again, in its data directory: raft's log and vote (see openRaft), its name as a raft server,
// and the bounds of the numbers that must never be used twice. Everything is on the disk before it is used. A process that has lost
// the directory comes back as another raft server.
//
// A Store without a directory remembers nothing; a group of such processes ends with a majority of them.
type Store struct {
	dir    string
	number uint8
	lock   *os.File

	mu       sync.Mutex
	counters counters
}

// counters is the file of that name, as JSON.
type counters struct {
	Server      string // raft's name of this process
	Incarnation uint64 // the last one used
	Unique      uint64 // numbers below this may have been used
}

// OpenStore opens the data directory of a replica, or makes it. It belongs to one process until Close. dir "" remembers nothing.
func OpenStore(dir string, number uint8, witness bool) (*Store, error) {
	s := &Store{dir: dir, number: number}
	if dir == "" {
		s.counters.Server = newServer(number, witness)
		return s, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("data directory %s: another process uses it (%w); each replica needs one of its own", dir, err)
	}
	s.lock = lock
	if err := s.read(witness); err != nil {
		lock.Close()
		return nil, fmt.Errorf("data directory %s: %w", dir, err)
	}
	return s, nil
}

func (s *Store) read(witness bool) error {
	b, err := os.ReadFile(filepath.Join(s.dir, "counters"))
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(s.raftFile()); err == nil {
			return errors.New("the file counters is missing, but raft's log is there; restore it, or empty the directory: the process then joins as a new one")
		}
		return s.write(counters{Server: newServer(s.number, witness)})
	}
	if err != nil {
		return err
	}
	if err := strictly(b, &s.counters); err != nil {
		return fmt.Errorf("the file counters is damaged (%w); empty the directory: the process then joins as a new one", err)
	}
	number, isWitness, err := parseServer(s.counters.Server)
	switch {
	case err != nil:
		return err
	case number != s.number:
		return fmt.Errorf("it belongs to replica %d, not to %d", number, s.number)
	case isWitness != witness:
		return fmt.Errorf("it belongs to a replica of the other kind (--witness was given then, or is now); replica %d needs another directory", number)
	}
	return nil
}

// write replaces the file counters; s.mu is held, except at the beginning.
func (s *Store) write(c counters) error {
	if s.dir != "" {
		b, err := json.Marshal(c)
		if err != nil {
			return err
		}
		if err := replaceFile(filepath.Join(s.dir, "counters"), b); err != nil {
			return err
		}
	}
	s.counters = c
	return nil
}

// replaceFile leaves either the old contents or the new ones, whenever the machine stops.
func replaceFile(path string, contents []byte) error {
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(contents)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Server is raft's name of the process, which says what it is: its number and whether it is a witness.
func (s *Store) Server() string { return s.counters.Server }

// NextIncarnation is a life of the replica that has not been: greater than all before, than above, and than the time in µs, in case the
// directory was lost.
func (s *Store) NextIncarnation(above uint64) (Member, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counters
	c.Incarnation = max(c.Incarnation+1, above+1, uint64(time.Now().UnixMicro()))
	if err := s.write(c); err != nil {
		return Member{}, fmt.Errorf("data directory: the new incarnation cannot be noted: %w", err)
	}
	return Member{Number: s.number, Incarnation: c.Incarnation}, nil
}

// ReserveUnique returns n numbers, from up to but not including to, that this replica has never had: above the bound on the disk and the
// time in µs.
func (s *Store) ReserveUnique(n uint64) (from, to uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counters
	from = max(c.Unique, uint64(time.Now().UnixMicro()))
	c.Unique = from + n
	if err := s.write(c); err != nil {
		return 0, 0, fmt.Errorf("data directory: the bound of unique numbers cannot be noted: %w", err)
	}
	return from, c.Unique, nil
}

// Close gives the directory free.
func (s *Store) Close() error {
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}

func (s *Store) raftFile() string { return filepath.Join(s.dir, "raft.db") }

// newServer makes a name for a raft server: 2-0f3a..., or 2w-0f3a... for a witness.
func newServer(number uint8, witness bool) string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	kind := ""
	if witness {
		kind = "w"
	}
	return fmt.Sprintf("%d%s-%s", number, kind, hex.EncodeToString(b[:]))
}

func parseServer(name string) (number uint8, witness bool, err error) {
	front, _, ok := strings.Cut(name, "-")
	digits, witness := strings.CutSuffix(front, "w")
	n, err := strconv.ParseUint(digits, 10, 8)
	if !ok || err != nil || n == 0 || n > MaxMember {
		return 0, false, fmt.Errorf("%q is not the name of a raft server of hermesd", name)
	}
	return uint8(n), witness, nil
}
