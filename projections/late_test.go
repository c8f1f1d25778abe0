package projections_test

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/projections/bollinger"
	"github.com/pricemill/pricemill/projections/ema"
	"github.com/pricemill/pricemill/projections/vwap"
	"github.com/pricemill/pricemill/schema"
)

// Far back or not, late prices leave the states that they would have led to in time.
func TestLatePricesMendTheStatesAfterThem(t *testing.T) {
	t.Parallel()
	const seed, prices = 7, 6000
	random := rand.New(rand.NewPCG(seed, 0))
	payloads := make([]schema.Payload, prices)
	at := schema.NewTime(time.Date(2025, 6, 15, 0, 0, 0, 0, time.UTC))
	for i := range payloads {
		at = at.Add(time.Duration(random.IntN(60)) * time.Second)
		payloads[i] = schema.PriceObserved{Symbol: "A", Source: "p", Timestamp: at, ReceivedAt: at, Sequence: schema.Sequence(i),
			Price: schema.MustDecimal(strconv.Itoa(100 + random.IntN(50))), Size: schema.MustDecimal("1." + strconv.Itoa(1+random.IntN(9)))}
	}
	newest, shuffled := slices.Clone(payloads), slices.Clone(payloads)
	slices.Reverse(newest)
	random.Shuffle(prices, func(i, k int) { shuffled[i], shuffled[k] = shuffled[k], shuffled[i] })
	series := map[string]func(pipeline.Env) (pipeline.Projection, error){ema.Name: ema.New, bollinger.Name: bollinger.New, vwap.Name: vwap.New}
	for order, payloads := range map[string][]schema.Payload{"newest first": newest, "shuffled": shuffled} {
		for name, create := range series {
			t.Run(name+", "+order, func(t *testing.T) {
				t.Parallel()
				rig := pipelinetest.New(t)
				log := rig.AppendAll(t, payloads...)
				states := func(number, batch int) []string {
					p, err := create(pipeline.Env{})
					require.NoError(t, err)
					g := pipeline.Generation{Projection: p.Name(), Number: number}
					pipelinetest.CreateTables(t, rig.DB, p, g)
					stage := rig.Start(t, pipelinetest.FoldStage(p, g))
					defer stage.Close(t)
					for records := range slices.Chunk(log, batch) {
						require.NoError(t, stage.Deliver(records...))
					}
					var rows []string
					require.NoError(t, rig.DB.Select(t.Context(), &rows, `SELECT timestamp || ' ' || sequence || ' ' || coalesce(state, '')
						FROM `+g.Table(name)+` ORDER BY timestamp, sequence, id`))
					return rows
				}
				atOnce := states(1, prices) // which sorts them all
				require.Len(t, atOnce, prices)
				require.Equal(t, atOnce, states(2, 500), "seed %d", seed)
				require.Equal(t, atOnce, states(3, 83), "seed %d", seed)
			})
		}
	}
}
