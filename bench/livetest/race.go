//go:build race

package livetest

const raceDetector = true
