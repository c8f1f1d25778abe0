package cmd_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// corrector posts corrections and retractions one after the other, each until it is answered,
// and knows what the prices have to be.
type corrector struct {
	t      testing.TB
	random *rand.Rand
	mu     sync.Mutex
	url    string
	moved  chan struct{} // closed when url changes
	// prices are those of each symbol, by its minutes; 0 for one that was retracted.
	prices map[string][]int
	posted int
}

const (
	correctedSymbols = 4
	correctedMinutes = 60
)

func minuteOf(n int) time.Time {
	return time.Date(2025, 6, 15, 12, n, 0, 0, time.UTC)
}

func newCorrector(t testing.TB, random *rand.Rand) (*corrector, string) {
	c := &corrector{t: t, random: random, prices: map[string][]int{}, moved: make(chan struct{})}
	var file strings.Builder
	file.WriteString("symbol,price,time\n")
	for s := range correctedSymbols {
		symbol := fmt.Sprintf("C%d", s)
		for minute := range correctedMinutes {
			price := 100 + random.IntN(900)
			c.prices[symbol] = append(c.prices[symbol], price)
			fmt.Fprintf(&file, "%s,%d,%s\n", symbol, price, minuteOf(minute).Format(time.RFC3339))
		}
	}
	path := filepath.Join(t.TempDir(), "prices.csv")
	require.NoError(t, os.WriteFile(path, []byte(file.String()), 0o600))
	return c, path
}

// at says where the service is now; empty while it is killed.
func (c *corrector) at(url string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.url = url
	close(c.moved)
	c.moved = make(chan struct{})
}

// target is where the service is, once it is somewhere.
func (c *corrector) target(ctx context.Context) string {
	for {
		c.mu.Lock()
		url, moved := c.url, c.moved
		c.mu.Unlock()
		if url != "" {
			return url
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ""
		}
	}
}

func (c *corrector) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.posted
}

// post posts the next one.
func (c *corrector) post(ctx context.Context, number int) {
	symbol, minute := fmt.Sprintf("C%d", c.random.IntN(correctedSymbols)), c.random.IntN(correctedMinutes)
	path, price := "/api/v1/corrections", 1+c.random.IntN(2000)
	body := map[string]any{"symbol": symbol, "provider": "csv", "timestamp": minuteOf(minute).Format(time.RFC3339), "reason": "drawn", "price": price}
	if c.random.IntN(4) == 0 {
		path, price = "/api/v1/retractions", 0
		delete(body, "price")
	}
	text, err := json.Marshal(body)
	require.NoError(c.t, err)
	for ctx.Err() == nil {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.target(ctx)+path, strings.NewReader(string(text)))
		if err != nil {
			continue // the time is over
		}
		request.Header.Set("Idempotency-Key", fmt.Sprintf("correction-number-%d", number))
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			continue
		}
		_ = response.Body.Close() // the status says enough
		switch response.StatusCode {
		case http.StatusOK, http.StatusAccepted:
			c.prices[symbol][minute] = price
			c.mu.Lock()
			c.posted++
			c.mu.Unlock()
			return
		case http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusNotFound, http.StatusTooManyRequests:
		default:
			assert.Fail(c.t, "a correction was refused", "%s: %d", text, response.StatusCode)
			return
		}
	}
}

// TestFaultsCorrections: prices are corrected and retracted, several times each, while the
// service is killed at random moments. Every read model is as if the final prices had come
// at first.
func TestFaultsCorrections(t *testing.T) {
	t.Parallel()
	kills, wanted := sizeOf(3, 10, 50), sizeOf(150, 600, 5_000)
	seed := seed(t)
	random := rand.New(rand.NewPCG(seed, 0))
	env := newStack(t, environment{"MOVING_AVERAGE_WINDOW": "5", "PLUGINS": "candles"})
	c, file := newCorrector(t, random)
	p := spawnServer(t, "all", env)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log of the last process:\n%s", p.logs)
		}
	})
	ingested(t, p.env, file)
	c.at(p.url)
	posting, stop := context.WithTimeout(t.Context(), 10*time.Minute)
	defer stop()
	var posted sync.WaitGroup
	posted.Go(func() {
		for number := range wanted {
			c.post(posting, number)
		}
	})
	for kill := range kills {
		target := (wanted*kill + wanted/2) / kills
		require.Eventually(t, func() bool { return c.count() >= target }, 5*time.Minute, time.Millisecond)
		c.at("")
		p.kill()
		p = spawnServer(t, "all", env)
		c.at(p.url)
	}
	posted.Wait()
	require.Equal(t, wanted, c.count())
	for symbol, prices := range c.prices {
		var want []string
		sum, n := 0, 0
		for minute := correctedMinutes - 1; minute >= 0; minute-- {
			if prices[minute] == 0 {
				continue
			}
			if want = append(want, fmt.Sprintf("%s %d", minuteOf(minute).Format("15:04"), prices[minute])); n < 5 {
				sum, n = sum+prices[minute], n+1
			}
		}
		require.EventuallyWithT(t, func(t *assert.CollectT) {
			var page struct {
				Items []struct {
					Price     json.Number
					Timestamp time.Time
				}
			}
			require.NoError(t, json.Unmarshal([]byte(p.get("/api/v1/prices/history?provider=csv&limit=100&symbol="+symbol).body), &page))
			var is []string
			for _, one := range page.Items {
				is = append(is, fmt.Sprintf("%s %s", one.Timestamp.Format("15:04"), one.Price))
			}
			require.Equal(t, want, is)
			var average struct{ Value json.Number }
			require.NoError(t, json.Unmarshal([]byte(p.get("/api/v1/prices/moving-average?provider=csv&window=5&symbol="+symbol).body), &average))
			value, err := average.Value.Float64()
			require.NoError(t, err)
			require.InDelta(t, float64(sum)/float64(n), value, 1e-9)
		}, time.Minute, 50*time.Millisecond)
	}
	awaitDrained(t, env)
	proven(t, env)
}
