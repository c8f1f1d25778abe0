package candles_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/projections/candles"
	"github.com/pricemill/pricemill/projections/projectiontest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestProjection(t *testing.T) {
	t.Parallel()
	projectiontest.Run(t, projectiontest.Suite{New: func() (pipeline.Projection, error) { return candles.New(pipeline.Env{}) }})
}
