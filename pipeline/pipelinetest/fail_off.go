//go:build !failpoints

package pipelinetest

import (
	"context"
	"testing"

	"github.com/pricemill/pricemill/pipeline/failpoint"
)

// Fail skips the test: this binary was built without the tag failpoints, by which
// a failpoint would call do at its hit number n.
func Fail(t testing.TB, p failpoint.Point, n int, do func(ctx context.Context) error) {
	t.Helper()
	t.Skip("needs failpoints: go test -tags failpoints")
}
