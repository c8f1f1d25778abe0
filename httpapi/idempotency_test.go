package httpapi_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pricemill/pricemill/projections/jobs"
	"github.com/pricemill/pricemill/schema"
)

// folding is a log whose read model follows as far behind as it says.
type folding struct {
	commands
	jobList
}

func newFolding(behind time.Duration) *folding { return &folding{jobList: jobList{behind: behind}} }

func (f *folding) Publish(ctx context.Context, p schema.Payload) (string, error) {
	created := p.(schema.PollingJobCreated)
	fold := func() {
		if _, err := f.Get(context.Background(), created.JobID); err != nil { // the first one counts
			f.add(jobs.Job{JobID: created.JobID, Symbols: created.Symbols, Interval: created.Interval, Provider: created.Provider,
				Status: schema.JobActive, CreatedAt: created.CreatedAt})
		}
	}
	if f.behind == 0 {
		fold()
	} else {
		time.AfterFunc(f.behind-time.Nanosecond, fold)
	}
	return f.commands.Publish(ctx, p)
}

func post(t *testing.T, api http.Handler, body string, header ...string) (*httptest.ResponseRecorder, string) {
	t.Helper()
	w := serve(t, api, request(http.MethodPost, polls, body, header...))
	var answer struct {
		JobID string `json:"job_id"`
	}
	if w.Code == http.StatusAccepted {
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
	}
	return w, answer.JobID
}

const otherBody = `{"detail":[{"type":"value_error","loc":["header","idempotency-key"],"msg":"Value error, the key was used with another body",` +
	`"input":"one","ctx":{"error":"the key was used with another body"}}]}`

func TestIdempotencyKey(t *testing.T) {
	mustContract(t)
	synctest.Test(t, func(t *testing.T) {
		log := newFolding(30 * time.Millisecond)
		api := newAPI(t, func(s *setup) { s.Commands, s.Jobs = log, log })
		const body = `{"symbols":["aapl","MSFT"],"interval":60}`
		first, id := post(t, api, body, "Idempotency-Key", "one")
		if first.Header().Get("X-Log-Position") == "" || len(log.all()) != 1 {
			t.Errorf("%v, published %v", first.Header(), log.all())
		}
		// Sent again, also in other words and by another instance, it is the same.
		elsewhere := newAPI(t, func(s *setup) { s.Commands, s.Jobs = log, log })
		for _, again := range []string{body, `{"interval":"60","provider":"finnhub","symbols":["AAPL","msft","aapl"]}`} {
			w, other := post(t, elsewhere, again, "Idempotency-Key", "one")
			expect(t, w, http.StatusAccepted, first.Body.String())
			if other != id || w.Header().Get("X-Log-Position") != "" || len(log.all()) != 1 {
				t.Errorf("job %s and %s, %v, published %v", id, other, w.Header(), log.all())
			}
		}
		for _, another := range []string{`{"symbols":["AAPL"],"interval":60}`, `{"symbols":["AAPL","MSFT"],"interval":61}`,
			`{"symbols":["MSFT","AAPL"],"interval":60}`, `{"symbols":["AAPL","MSFT"],"interval":60,"provider":"yahoo"}`} {
			w, _ := post(t, api, another, "Idempotency-Key", "one")
			expect(t, w, http.StatusUnprocessableEntity, otherBody)
		}
		_, second := post(t, api, body, "Idempotency-Key", "One")
		_, third := post(t, api, body)
		if second == id || third == id || second == third || len(log.all()) != 3 {
			t.Errorf("jobs %s, %s, %s, published %v", id, second, third, log.all())
		}
		time.Sleep(time.Second) // let the read model follow
	})
}

// Two bodies with one key at once: the log decides, and the loser is told.
func TestOneKeyTwiceAtOnce(t *testing.T) {
	mustContract(t)
	synctest.Test(t, func(t *testing.T) {
		log := newFolding(30 * time.Millisecond)
		api := newAPI(t, func(s *setup) { s.Commands, s.Jobs = log, log })
		codes := make(chan int, 2)
		for _, body := range []string{`{"symbols":["A"],"interval":60}`, `{"symbols":["B"],"interval":60}`} {
			go func() {
				w, _ := post(t, api, body, "Idempotency-Key", "one")
				codes <- w.Code
			}()
		}
		if a, b := <-codes, <-codes; a+b != http.StatusAccepted+http.StatusUnprocessableEntity {
			t.Errorf("%d and %d", a, b)
		}
		time.Sleep(time.Second) // let the read model follow
	})
}

func TestAKeyWhileTheReadModelIsBehind(t *testing.T) {
	mustContract(t)
	synctest.Test(t, func(t *testing.T) {
		log := newFolding(time.Minute)
		api := newAPI(t, func(s *setup) { s.Commands, s.Jobs = log, log })
		begin := time.Now()
		w, _ := post(t, api, `{"symbols":["A"],"interval":60}`, "Idempotency-Key", "one")
		if waited := time.Since(begin); waited != 5*time.Second || w.Code != http.StatusAccepted || w.Header().Get("X-Log-Position") == "" {
			t.Errorf("%d %v", w.Code, w.Header())
		}
		time.Sleep(time.Minute)
	})
}

func TestBadIdempotencyKeys(t *testing.T) {
	t.Parallel()
	fault := func(typ, msg, input, ctx string) string {
		return `{"detail":[{"type":"` + typ + `","loc":["header","idempotency-key"],"msg":"` + msg + `","input":"` + input + `","ctx":` + ctx + `}]}`
	}
	const pattern = "String should match pattern '^[!-~]+$'"
	for key, want := range map[string]string{
		"":                       fault("string_too_short", "String should have at least 1 character", "", `{"min_length":1}`),
		strings.Repeat("k", 256): fault("string_too_long", "String should have at most 255 characters", strings.Repeat("k", 64)+"…", `{"max_length":255}`),
		"a b":                    fault("string_pattern_mismatch", pattern, "a b", `{"pattern":"^[!-~]+$"}`),
		"schlüssel":              fault("string_pattern_mismatch", pattern, "schlüssel", `{"pattern":"^[!-~]+$"}`),
	} {
		log := &commands{}
		w, _ := post(t, newAPI(t, func(s *setup) { s.Commands = log }), `{"symbols":["A"],"interval":60}`, "Idempotency-Key", key)
		expect(t, w, http.StatusUnprocessableEntity, want)
		if len(log.all()) != 0 {
			t.Errorf("published %v", log.all())
		}
	}
	twice := request(http.MethodPost, polls, `{"symbols":["A"],"interval":60}`)
	twice.Header["Idempotency-Key"] = []string{"a", "b"}
	expect(t, serve(t, newAPI(t, nil), twice), http.StatusUnprocessableEntity, fault("string_pattern_mismatch", pattern, "a, b", `{"pattern":"^[!-~]+$"}`))
	log := newFolding(0)
	if w, _ := post(t, newAPI(t, func(s *setup) { s.Commands, s.Jobs = log, log }), `{"symbols":["A"],"interval":60}`, "Idempotency-Key", strings.Repeat("~", 255)); w.Code != http.StatusAccepted {
		t.Errorf("255 characters: %d %s", w.Code, w.Body)
	}
}
