package backfill_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/backfill"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

// defined is a provider by a definition, whose cursors no other one can read. It has trades 0 to
// 39, ten a page.
type defined struct {
	pipeline.Provider
	version string

	mu    sync.Mutex
	asked []pipeline.HistoryRequest
}

func (d *defined) DefinedBy() (version, text string) { return d.version, "name: " + d.version }

func (d *defined) History(_ context.Context, r pipeline.HistoryRequest) (page pipeline.HistoryPage, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, r)
	first := int(r.From.Sub(epoch) / time.Second)
	if r.Cursor != "" {
		var version string
		if version, r.Cursor = r.Cursor[:2], r.Cursor[2:]; version != d.version {
			return page, pipeline.Quotef(schema.CodeBadResponse, "a cursor of %s", version)
		}
		first, _ = strconv.Atoi(r.Cursor)
	}
	for trade := first; trade < min(first+10, 40); trade++ {
		page.Entries = append(page.Entries, entry(trade))
	}
	if first+10 < 40 {
		page.Next = d.version + strconv.Itoa(first+10)
	}
	return page, nil
}

// A cursor is only good for the definition that gave it. By another one a backfill begins again
// at the time that it has reached, and by the same one it continues from the cursor.
func TestABackfillByAnotherDefinition(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		version, cursor string
		from            int
	}{
		"another":  {"v2", "", 19},
		"the same": {"v1", "v120", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rig := pipelinetest.New(t)
				first, second := &defined{version: "v1"}, &defined{version: test.version}
				runner := newHandler(t, first)
				command(t, rig, runner, started("b", "p", 0, 39))
				stop := process(t, rig.Emitter(), runner)
				settle(90 * time.Second) // two pages
				stop()
				require.Len(t, first.asked, 2)
				require.Equal(t, at(19), *get(t, rig, "b").Reached)
				defer process(t, rig.Emitter(), newHandler(t, second))()
				settle(10 * time.Minute)
				b := get(t, rig, "b")
				assert.Equal(t, backfill.Completed, b.Status, b.LastError)
				require.NotEmpty(t, second.asked)
				assert.Equal(t, pipeline.HistoryRequest{Symbol: "A", From: at(test.from), To: at(39), Cursor: test.cursor}, second.asked[0])
				assert.Equal(t, at(test.from), second.asked[len(second.asked)-1].From, "one span for all of its pages")
				records := rig.Sent()
				var got []string
				for _, r := range records {
					got = append(got, r.Event.ID)
				}
				assert.Subset(t, got, trades(0, 39))
				last := records[len(records)-1].Event.Payload.(schema.QuoteFetched)
				assert.Equal(t, test.version+pipeline.HistoryMark, last.Definition)
			})
		})
	}
}
