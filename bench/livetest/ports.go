package livetest

import (
	"fmt"
	"testing"

	"hermesd/bench/ports"
)

// FreePorts returns the first of n ports in a row of the loopback interface on which nobody listens, and which nobody else who asks here
// is given meanwhile.
func FreePorts(t testing.TB, n int) int {
	t.Helper()
	first, err := ports.Reserve(n)
	if err != nil {
		t.Fatal(err)
	}
	return first
}

// Loopback is the address of a port of the loopback interface.
func Loopback(port int) string { return ports.Loopback(port) }

func groupText(ports []int) string {
	text := ""
	for i, port := range ports {
		text += fmt.Sprintf(",%d=%s", i+1, Loopback(port))
	}
	return text[1:]
}
