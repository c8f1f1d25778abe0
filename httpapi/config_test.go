package httpapi_test

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/schema"
)

func TestConfigReportsAllFaults(t *testing.T) {
	t.Parallel()
	_, err := httpapi.New(httpapi.Config{
		Providers:       []schema.Provider{"yahoo", "Bad Name"},
		ProviderAliases: map[string]schema.Provider{"yahoo": "yahoo", "y": "nobody"},
		DefaultProvider: "finnhub",
		MaxAge:          2 * time.Hour,
		FetchTimeout:    time.Minute,
		OutcomeGrace:    -time.Second,
		DefaultWindow:   1001,
		MinInterval:     1500 * time.Millisecond,
	}, httpapi.Ports{})
	if !errors.Is(err, httpapi.ErrConfig) {
		t.Fatalf("error %v", err)
	}
	for _, want := range []string{
		`Providers: invalid provider name "Bad Name"`, `DefaultProvider: "finnhub"`,
		`ProviderAliases: "yahoo" is the name`, `ProviderAliases: "y" stands for "nobody"`,
		"MaxAge: 2h0m0s", "FetchTimeout: 1m0s", "OutcomeGrace: -1s", "DefaultWindow: 1001", "MinInterval: 1.5s",
		"port Commands", "port LatestPrices", "port Symbols", "port Prices", "port Corrections", "port Averages", "port Jobs", "port ProviderInfo",
		"port Requests", "port RequestDetails", "port Streams", "port Pipeline", "port Live", "port Readiness", "port Metrics",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
	if got := len(strings.Split(err.Error(), "\n")); got != 32 {
		t.Errorf("%d faults, want 32:\n%v", got, err)
	}
}

func TestConfigNeedsLittle(t *testing.T) {
	t.Parallel()
	config := httpapi.Config{Providers: []schema.Provider{"simulated"}, DefaultProvider: "simulated"}
	if err := config.Validate(); err != nil {
		t.Error(err)
	}
	if err := (httpapi.Config{}).Validate(); err == nil {
		t.Error("no provider at all is accepted")
	}
}

// TestServerLimits: the longest GET latest must fit into the time of an answer.
func TestServerLimits(t *testing.T) {
	t.Parallel()
	server, _ := httpapi.NewServer("127.0.0.1:8000", http.NotFoundHandler(), httpapi.ConnectionLimits{}, slog.New(slog.DiscardHandler))
	if server.Addr != "127.0.0.1:8000" || server.Handler == nil {
		t.Errorf("server %+v", server)
	}
	if longest := httpapi.MaxFetchTimeout + httpapi.MaxOutcomeGrace; server.WriteTimeout <= longest {
		t.Errorf("an answer may take %v, a fetch %v", server.WriteTimeout, longest)
	}
	if server.ReadHeaderTimeout <= 0 || server.ReadTimeout <= 0 || server.IdleTimeout <= 0 || server.MaxHeaderBytes <= 0 {
		t.Errorf("a client can hold the server up: %+v", server)
	}
}
