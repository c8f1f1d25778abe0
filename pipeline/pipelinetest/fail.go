//go:build failpoints

package pipelinetest

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/failpoint"
)

// Fail has a failpoint call do, until the test ends: at its hit number n from now
// on, or at every hit where n is 0. do may return an error, which the caller of the
// point meets there, panic, or block.
//
// Failpoints are of the process, so a test that uses them cannot be parallel. In a
// binary built without the tag failpoints it is skipped; `make test-faults` builds
// with it.
func Fail(t testing.TB, p failpoint.Point, n int, do func(ctx context.Context) error) {
	t.Helper()
	t.Setenv(failpoint.Variable, "") // panics in a parallel test
	disarm, err := failpoint.Arm(p, failpoint.Hits{First: n}, func(ctx context.Context, _ int) error { return do(ctx) })
	require.NoError(t, err)
	t.Cleanup(disarm)
}
