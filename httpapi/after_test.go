package httpapi_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/schema"
)

// TestAfter: a read that follows a command waits for it, and says how far the stage is where
// that takes too long.
func TestAfter(t *testing.T) {
	t.Parallel()
	var asked []int64
	api := newAPI(t, func(s *setup) {
		s.WaitWritten = func(ctx context.Context, topic schema.Topic, partition int32, number int64) error {
			if topic != schema.PollingJobs || partition != 3 {
				t.Errorf("%s/%d", topic, partition)
			}
			asked = append(asked, number)
			if number < 100 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}
		s.Pipeline = jobsBehind{}
	})
	for _, path := range []string{"/api/v1/prices/poll", "/api/v1/prices/poll/poll_abc12345", "/api/v1/streams", "/api/v1/streams/stream_abc12345"} {
		if w := get(t, api, path+"?after=polling-jobs:3:42"); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
		if w := get(t, api, path+"?after=polling-jobs:3:100&wait=1ms"); w.Code != http.StatusGatewayTimeout || !strings.Contains(w.Body.String(), "polling-jobs:3:100 was not reached within 1ms: ") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
		for _, wrong := range []string{"after=", "after=price-events:3:42", "after=polling-jobs:3:0", "after=polling-jobs:3:42x", "wait=2", "wait=11s", "wait=0s", "wait=2m"} {
			if w := get(t, api, path+"?"+wrong); w.Code != http.StatusUnprocessableEntity {
				t.Errorf("%s?%s: %d %s", path, wrong, w.Code, w.Body)
			}
		}
	}
	if len(asked) != 8 {
		t.Errorf("asked %d times for a position, want 8", len(asked))
	}
	expect(t, get(t, api, "/api/v1/prices/poll?after=polling-jobs:3:100&wait=1ms"), http.StatusGatewayTimeout,
		`{"detail":"polling-jobs:3:100 was not reached within 1ms: polling-jobs.g1 is at offset 41 of 43 of polling-jobs/3"}`)
	expect(t, get(t, api, "/api/v1/streams?after=polling-jobs:3:100&wait=1ms"), http.StatusGatewayTimeout,
		`{"detail":"polling-jobs:3:100 was not reached within 1ms: stream has read nothing of partition 3"}`)
}

// TestAfterOfPrices: every read of prices, and of what follows from them, waits for the
// projections that it reads.
func TestAfterOfPrices(t *testing.T) {
	t.Parallel()
	var waited []string
	api := newAPI(t, func(s *setup) {
		s.CaughtUp = func(ctx context.Context, projection string, topic schema.Topic) error {
			if topic != schema.PriceEvents {
				t.Errorf("waited for %s", topic)
			}
			waited = append(waited, projection)
			return nil
		}
	})
	for path, want := range map[string][]string{
		"/api/v1/prices?symbols=AAPL":                        {"latest-prices"},
		"/api/v1/prices/latest?symbol=AAPL&provider=nope":    {"latest-prices"},
		"/api/v1/prices/history?symbol=AAPL":                 {"processed-prices"},
		"/api/v1/prices/moving-average?symbol=AAPL":          {"moving-averages", "processed-prices"},
		"/api/v1/prices/moving-averages?symbols=AAPL":        {"moving-averages", "processed-prices"},
		"/api/v1/prices/moving-average/history?symbol=AAPL":  {"processed-prices"},
		"/api/v1/indicators/bands?symbol=AAPL":               {"bands"},
		"/api/v1/prices/history?symbol=AAPL&%61fter=%70rice": nil, // which is not a position, by whatever spelling
	} {
		waited = nil
		position := "&after=price-events:3:42"
		if want == nil {
			position = ""
		}
		if w := get(t, api, path+position); (w.Code == http.StatusUnprocessableEntity) != (want == nil) || !slices.Equal(waited, want) {
			t.Errorf("%s: %d %s after %v, want %v", path, w.Code, w.Body, waited, want)
		}
		if w := get(t, api, path+"&after=polling-jobs:3:42"); w.Code != http.StatusUnprocessableEntity {
			t.Errorf("%s, of another topic: %d %s", path, w.Code, w.Body)
		}
	}
}

// jobsBehind is a pipeline whose polling jobs are behind.
type jobsBehind struct{ chain }

func (jobsBehind) Stages(context.Context) ([]httpapi.StagePosition, error) {
	return []httpapi.StagePosition{{Stage: "polling-jobs.g1", Topic: schema.PollingJobs, Partition: 3, Position: 41, End: 43}}, nil
}
