package replication_test

import (
	"testing"

	"hermesd/replication/transporttest"
)

func TestTCPContract(t *testing.T) {
	transporttest.Run(t, func(t testing.TB, o transporttest.Options) transporttest.Network {
		return transporttest.NewTCPNetwork(t, o, nil)
	})
}
