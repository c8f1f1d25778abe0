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
	"github.com/pricemill/pricemill/projections/projectiontest"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestProjection(t *testing.T) {
	t.Parallel()
	projectiontest.Run(t, projectiontest.Suite{New: func() (pipeline.Projection, error) { return newProjection(t), nil },
		Draw: func(t *rapid.T) []schema.Payload { return projectiontest.Corrected(t, drawLog(t)) }})
}

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

func TestPrices(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	p := newProjection(t)
	spec, err := projections.Open(t.Context(), rig.DB, p)
	require.NoError(t, err)
	stage := rig.Start(t, spec)
	defer stage.Close(t)
	at := func(second int) schema.Time { return schema.NewTime(time.Unix(int64(second), 0)) }
	price := func(symbol schema.Symbol, second int, text string) schema.Payload {
		return schema.PriceObserved{Symbol: symbol, Source: "p", Timestamp: at(second), ReceivedAt: at(second + 1), Price: schema.MustDecimal(text)}
	}
	require.NoError(t, stage.Deliver(rig.AppendAll(t, price("A", 10, "1"), price("A", 30, "2"), price("B", 30, "7"),
		price("A", 20, "3"), price("A", 30, "4"))...))

	reader := processedprices.Reader{DB: rig.DB}
	list := func(q processedprices.Query) ([]processedprices.Price, []string) {
		q.Provider, q.Symbol = "p", "A"
		prices, err := reader.Prices(t.Context(), q)
		require.NoError(t, err)
		var texts []string
		for _, price := range prices {
			texts = append(texts, price.Price.String())
			assert.Equal(t, price.Timestamp.Add(time.Second), price.ReceivedAt)
		}
		return prices, texts
	}
	newest := projections.Newest
	for name, test := range map[string]struct {
		query processedprices.Query
		want  []string
	}{
		"the newest event time, and of two the later in the log": {processedprices.Query{Behind: newest, Limit: 1}, []string{"4"}},
		"all of them":         {processedprices.Query{Behind: newest, Limit: 9}, []string{"4", "2", "3", "1"}},
		"from, inclusive":     {processedprices.Query{Behind: newest, From: at(20), Limit: 9}, []string{"4", "2", "3"}},
		"before, exclusive":   {processedprices.Query{Behind: projections.Before(at(30)), Limit: 9}, []string{"3", "1"}},
		"until, inclusive":    {processedprices.Query{Behind: projections.Until(at(20)), Limit: 9}, []string{"3", "1"}},
		"nothing in between":  {processedprices.Query{Behind: projections.Before(at(20)), From: at(11), Limit: 9}, nil},
		"nothing that is new": {processedprices.Query{Behind: newest, From: at(31), Limit: 9}, nil},
	} {
		_, got := list(test.query)
		assert.Equal(t, test.want, got, name)
	}

	// Page by page, while prices arrive in front and in between.
	page, first := list(processedprices.Query{Behind: newest, Limit: 2})
	require.NoError(t, stage.Deliver(rig.AppendAll(t, price("A", 40, "5"), price("A", 15, "6"))...))
	_, rest := list(processedprices.Query{Behind: page[1].Place(), Limit: 9})
	assert.Equal(t, []string{"4", "2", "3", "6", "1"}, append(first, rest...), "none twice, none left out")

	// Within one instant by sequence, whatever the order of the log; page by page too.
	trade := func(sequence schema.Sequence, text string) schema.Payload {
		p := price("A", 50, text).(schema.PriceObserved)
		p.Sequence = sequence
		return p
	}
	require.NoError(t, stage.Deliver(rig.AppendAll(t, trade(3, "9"), trade(1, "7"), trade(2, "8"), trade(-1, "6.5"), trade(1, "7.5"))...))
	var paged []string
	for behind := newest; len(paged) < 5; {
		page, one := list(processedprices.Query{Behind: behind, Limit: 1})
		paged, behind = append(paged, one...), page[0].Place()
	}
	assert.Equal(t, []string{"9", "8", "7.5", "7", "6.5"}, paged)

	// Many queries at once, of more series than a statement has: each as it is alone.
	var queries []processedprices.Query
	for i := range 43 {
		q := processedprices.Query{Provider: "p", Symbol: []schema.Symbol{"A", "B", "NONE"}[i%3], Behind: newest, Limit: 1 + i%7}
		if i%5 == 0 {
			q.Behind = projections.Before(at(50))
		}
		if i%4 == 0 {
			q.From = at(30)
		}
		queries = append(queries, q)
	}
	for _, n := range []int{0, 1, 3, 8, 9, len(queries)} {
		pages, err := reader.PricesOf(t.Context(), queries[:n])
		require.NoError(t, err)
		require.Len(t, pages, n)
		for i, page := range pages {
			alone, err := reader.Prices(t.Context(), queries[i])
			require.NoError(t, err)
			assert.Equal(t, alone, page, "%+v", queries[i])
		}
	}
}

func TestEarlier(t *testing.T) {
	t.Parallel()
	early, late := schema.NewTime(time.Unix(1, 0)), schema.NewTime(time.Unix(2, 0))
	order := []projections.Place{projections.Before(early), {Timestamp: early, Sequence: -1, ID: 9}, {Timestamp: early, ID: 1}, {Timestamp: early, ID: 2},
		{Timestamp: early, Sequence: 1, ID: 0},
		projections.Until(early), projections.Before(late), {Timestamp: late, ID: 1}, projections.Newest}
	for i, p := range order {
		for k, q := range order {
			assert.Equal(t, order[min(i, k)], p.Earlier(q))
		}
	}
}

func TestAClosedDatabaseIsUnavailable(t *testing.T) {
	t.Parallel()
	db := pipelinetest.OpenStore(t, t.TempDir()+"/db")
	require.NoError(t, db.Close())
	_, err := processedprices.Reader{DB: db}.Prices(t.Context(), processedprices.Query{Provider: "p", Symbol: "A", Limit: 1})
	require.ErrorIs(t, err, projections.ErrUnavailable)
}
