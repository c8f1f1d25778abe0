package processedprices_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newProjection(t *testing.T) pipeline.Projection {
	t.Helper()
	for _, module := range pipeline.Projections() {
		if module.Name == processedprices.Name {
			p, err := module.New(pipeline.Env{})
			require.NoError(t, err)
			return p
		}
	}
	require.Fail(t, "not registered")
	return nil
}

// row is a row of the table.
type row struct {
	Symbol        schema.Symbol   `db:"symbol"`
	Price         schema.Decimal  `db:"price"`
	Timestamp     schema.Time     `db:"timestamp"`
	Provider      schema.Provider `db:"provider"`
	RawResponseID string          `db:"raw_response_id"`
	ReceivedAt    schema.Time     `db:"received_at"`
	EventID       string          `db:"event_id"`
}

func drawLog(t *rapid.T) []schema.Payload {
	payloads := make([]schema.Payload, rapid.IntRange(1, 30).Draw(t, "prices"))
	for i := range payloads {
		payloads[i] = schema.PriceObserved{
			Symbol: rapid.SampledFrom([]schema.Symbol{"A", "B", "C", "^GSPC"}).Draw(t, "symbol"), Source: "p",
			Price:         schema.MustDecimal(rapid.SampledFrom([]string{"0.000000000000000001", "185.75", "999999999999999999.5"}).Draw(t, "price")),
			Timestamp:     schema.NewTime(time.UnixMicro(rapid.Int64Range(-1e12, 1e12).Draw(t, "time"))),
			ReceivedAt:    schema.NewTime(time.Unix(int64(i), 0)),
			RawResponseID: rapid.SampledFrom([]string{"", "9223372036854775807"}).Draw(t, "raw")}
	}
	return payloads
}

// Each price is one row with all its digits, and the rows of a partition are in
// the order of the log.
func TestEachPriceIsARow(t *testing.T) {
	t.Parallel()
	p := newProjection(t)
	pipelinetest.CheckFold(t, p, drawLog, func(t *rapid.T, f pipelinetest.Fold) {
		want, got := map[pipeline.TopicPartition][]row{}, map[pipeline.TopicPartition][]row{}
		partitions := map[string]pipeline.TopicPartition{}
		for _, r := range f.Log {
			o := r.Event.Payload.(schema.PriceObserved)
			want[r.TopicPartition] = append(want[r.TopicPartition],
				row{o.Symbol, o.Price, o.Timestamp, o.Source, o.RawResponseID, o.ReceivedAt, r.Event.ID})
			partitions[r.Event.ID] = r.TopicPartition
		}
		var rows []row
		require.NoError(t, f.DB.Select(context.Background(), &rows, `SELECT symbol, price, timestamp, provider, raw_response_id,
			received_at, event_id FROM `+f.Generation.Table("processed_prices")+` ORDER BY id`))
		for _, r := range rows {
			tp := partitions[r.EventID]
			got[tp] = append(got[tp], r)
		}
		require.Equal(t, want, got)
	})
}

func TestLast(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	p := newProjection(t)
	spec, err := projections.Open(t.Context(), rig.DB, p, nil)
	require.NoError(t, err)
	stage := rig.Start(t, spec)
	defer stage.Close(t)
	var payloads []schema.Payload
	for i, second := range []int64{10, 30, 20, 30} {
		at := schema.NewTime(time.Unix(second, 0))
		payloads = append(payloads, schema.PriceObserved{Symbol: "A", Source: "p", Timestamp: at, ReceivedAt: at,
			Price: schema.MustDecimal([]string{"1", "2", "3", "4"}[i])})
	}
	require.NoError(t, stage.Deliver(rig.AppendAll(t, payloads...)...))

	reader := processedprices.Reader{DB: rig.DB}
	for n, want := range map[int][]string{1: {"4"}, 3: {"4", "2", "3"}, 100: {"4", "2", "3", "1"}} {
		prices, err := reader.Last(t.Context(), "p", "A", n)
		require.NoError(t, err)
		var got []string
		for _, price := range prices {
			got = append(got, price.Price.String())
		}
		assert.Equal(t, want, got, "the last %d: the newest event time first, of two the later in the log", n)
	}
	prices, err := reader.Last(t.Context(), "q", "A", 5)
	require.NoError(t, err)
	assert.Empty(t, prices)
}

func TestAClosedDatabaseIsUnavailable(t *testing.T) {
	t.Parallel()
	db := pipelinetest.OpenStore(t, t.TempDir()+"/db")
	require.NoError(t, db.Close())
	_, err := processedprices.Reader{DB: db}.Last(t.Context(), "p", "A", 1)
	require.ErrorIs(t, err, projections.ErrUnavailable)
}
