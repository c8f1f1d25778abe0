package cmd_test

import (
	"os"
	"testing"
)

func BenchmarkZZ(b *testing.B) {
	env := environment{"DATA_DIR": os.Getenv("PROF_DATA")}
	for b.Loop() {
		proven(b, env)
	}
}
