// Command clients uses the Go client that oapi-codegen makes of the API's document.
// It takes the service's address and an API key of the scope command.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/pricemill/pricemill/ci/clients/pricemill"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := use(ctx, os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "Go client:", err)
		os.Exit(1)
	}
}

func use(ctx context.Context, url, key string) error {
	withKey := func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+key)
		return nil
	}
	client, err := pricemill.NewClientWithResponses(url, pricemill.WithRequestEditorFn(withKey))
	if err != nil {
		return err
	}
	latest, err := client.GetLatestPriceWithResponse(ctx, &pricemill.GetLatestPriceParams{Symbol: "AAPL"})
	if err != nil {
		return fmt.Errorf("latest price: %w", err)
	}
	if latest.JSON200 == nil || latest.JSON200.Symbol != "AAPL" || latest.JSON200.Price == "" || latest.JSON200.Timestamp.IsZero() {
		return fmt.Errorf("latest price: %s %s", latest.Status(), latest.Body)
	}
	if err := history(ctx, client); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	if err := jobs(ctx, client); err != nil {
		return fmt.Errorf("jobs: %w", err)
	}

	// What is wrong has its type too, by status and by content type.
	asProblem := func(_ context.Context, r *http.Request) error {
		r.Header.Set("Accept", "application/problem+json")
		return nil
	}
	missing, err := client.GetPollingJobWithResponse(ctx, "poll_missing1", nil, asProblem)
	if err != nil {
		return fmt.Errorf("a job that is missing: %w", err)
	}
	if missing.ApplicationproblemJSON404 == nil || missing.ApplicationproblemJSON404.Status != http.StatusNotFound {
		return fmt.Errorf("a job that is missing: %s %s", missing.Status(), missing.Body)
	}
	return nil
}

// history reads EXACT page by page: every digit of what the script ingested.
func history(ctx context.Context, client *pricemill.ClientWithResponses) error {
	provider, limit := "csv", 2
	params := &pricemill.ListPricesParams{Symbol: "EXACT", Provider: &provider, Limit: &limit}
	var prices []string
	for {
		page, err := client.ListPricesWithResponse(ctx, params)
		if err != nil {
			return err
		}
		if page.JSON200 == nil {
			return fmt.Errorf("%s %s", page.Status(), page.Body)
		}
		for _, price := range page.JSON200.Items {
			prices = append(prices, price.Price.String())
		}
		if page.JSON200.NextCursor == nil {
			break
		}
		params.Cursor = page.JSON200.NextCursor
	}
	if want := "[0.1 123456789012345678.123456789012345678 0.000000000000000001]"; fmt.Sprint(prices) != want {
		return fmt.Errorf("%v; want %s", prices, want)
	}
	return nil
}

// jobs creates a job, twice with one key, reads it after that, and stops it.
func jobs(ctx context.Context, client *pricemill.ClientWithResponses) error {
	key := "go-client"
	create := func() (*pricemill.CreatePollingJobResponse, error) {
		return client.CreatePollingJobWithResponse(ctx, &pricemill.CreatePollingJobParams{IdempotencyKey: &key},
			pricemill.PollRequest{Symbols: []pricemill.SymbolInput{"MSFT"}, Interval: 3600})
	}
	created, err := create()
	if err != nil {
		return err
	}
	if created.JSON202 == nil {
		return fmt.Errorf("creating: %s %s", created.Status(), created.Body)
	}
	again, err := create()
	if err != nil {
		return err
	}
	if again.JSON202 == nil || again.JSON202.JobId != created.JSON202.JobId {
		return fmt.Errorf("creating again: %s %s", again.Status(), again.Body)
	}
	position := created.HTTPResponse.Header.Get("X-Log-Position")
	if position == "" {
		return errors.New("creating: no X-Log-Position")
	}
	wait := "10s"
	job, err := client.GetPollingJobWithResponse(ctx, created.JSON202.JobId, &pricemill.GetPollingJobParams{After: &position, Wait: &wait})
	if err != nil {
		return err
	}
	if job.JSON200 == nil || job.JSON200.JobId != created.JSON202.JobId {
		return fmt.Errorf("reading: %s %s", job.Status(), job.Body)
	}
	stopped, err := client.StopPollingJobWithResponse(ctx, created.JSON202.JobId)
	if err != nil {
		return err
	}
	if stopped.StatusCode() != http.StatusAccepted {
		return fmt.Errorf("stopping: %s %s", stopped.Status(), stopped.Body)
	}
	return nil
}
