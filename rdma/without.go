//go:build !rdma

package rdma

import (
	"errors"
	"io"
	"net/netip"

	"hermesd/replication"
)

// Built says whether this binary can use RDMA.
const Built = false

// ErrNotBuilt says how to get a binary that can.
var ErrNotBuilt = errors.New("this binary was built without RDMA: 'make rdma' builds one with it, where libibverbs-dev (rdma-core) and a C compiler are installed")

// New returns ErrNotBuilt.
func New(Options) (replication.Path, error) { return nil, ErrNotBuilt }

// List returns ErrNotBuilt.
func List(io.Writer, []netip.Addr, Options) error { return ErrNotBuilt }
