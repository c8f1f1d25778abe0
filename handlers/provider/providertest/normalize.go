package providertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// normalizeIsPure compares an answer's prices over time, over goroutines and
// with its bytes elsewhere in memory.
func normalizeIsPure(ctx context.Context, s Suite, p pipeline.Provider) error {
	quote, err := s.fresh(ctx, p)
	if err != nil {
		return err
	}
	before := bytes.Clone(quote.RawResponse)
	want, err := p.Normalize(quote)
	if err != nil {
		return fmt.Errorf("normalize of a fresh answer: %w", err)
	}
	text := fmt.Sprint(want)

	const users = 8
	errs := make([]error, users)
	var group sync.WaitGroup
	for i := range users {
		group.Go(func() {
			mine := quote
			if i%2 == 1 {
				mine.RawResponse = bytes.Clone(before)
			}
			got, err := p.Normalize(mine)
			if err != nil || !reflect.DeepEqual(want, got) {
				errs[i] = fmt.Errorf("normalize of the same answer: first %v, then %v, %v", want, got, err)
			}
		})
	}
	group.Wait()
	if !bytes.Equal(before, quote.RawResponse) {
		errs = append(errs, errors.New("normalize changed the answer"))
	}
	clear(quote.RawResponse)
	if fmt.Sprint(want) != text {
		errs = append(errs, errors.New("the prices share memory with the answer"))
	}
	return errors.Join(errs...)
}

func normalizeRefusesGarbage(_ context.Context, s Suite, p pipeline.Provider) error {
	var errs []error
	for name, payload := range map[string]string{
		"nothing":         "",
		"space":           " \r\n",
		"null":            "null",
		"an empty object": "{}",
		"an empty array":  "[]",
		"a number":        "185.75",
		"a string":        `"185.75"`,
		"a page":          "<!doctype html><title>502 Bad Gateway</title>",
		"an error":        `{"error":"You don't have access to this resource."}`,
		"zero bytes":      strings.Repeat("\x00", 64),
		"invalid UTF-8":   "{\"\xff\xfe\":\"\xc3\x28\"}",
		"deep nesting":    strings.Repeat("[", 100_000),
		"a long string":   `"` + strings.Repeat("9", 2*schema.MaxRawResponse) + `"`,
		"a long number":   strings.Repeat("9", schema.MaxRawResponse),
		"much space":      strings.Repeat(" ", 2*schema.MaxRawResponse),
	} {
		if err := refuses(p, s.fetched(s.Symbol, schema.RawResponse(payload))); err != nil {
			errs = append(errs, fmt.Errorf("normalize of %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// normalizeRefusesTruncated cuts a fresh answer in up to 256 places, as a lost
// connection does.
func normalizeRefusesTruncated(ctx context.Context, s Suite, p pipeline.Provider) error {
	quote, err := s.fresh(ctx, p)
	if err != nil {
		return err
	}
	// Without the space at its end an answer may well be complete.
	whole := bytes.TrimSpace(quote.RawResponse)
	step := max(1, len(whole)/256)
	var errs []error
	for size := 0; size < len(whole); size += step {
		if err := refuses(p, s.fetched(s.Symbol, bytes.Clone(whole[:size]))); err != nil {
			errs = append(errs, fmt.Errorf("normalize of the first %d of %d bytes: %w", size, len(whole), err))
		}
	}
	return errors.Join(errs...)
}

// normalizeSurvivesDamage changes single bytes of a fresh answer: what comes out
// is an error or something that an event can carry, never a panic.
func normalizeSurvivesDamage(ctx context.Context, s Suite, p pipeline.Provider) error {
	quote, err := s.fresh(ctx, p)
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(1, 2)) // the same damage each time
	const alphabet = "\"{}[]:,0123456789.-+eE \x00\xffnNtfaz\\"
	for range 2000 {
		damaged := bytes.Clone(quote.RawResponse)
		at := random.IntN(len(damaged))
		damaged[at] = alphabet[random.IntN(len(alphabet))]
		mine := s.fetched(s.Symbol, damaged)
		prices, err := normalize(p, mine)
		if err != nil {
			err = checkQuoteError(err)
		} else {
			err = s.checkPrices(mine, prices)
		}
		if err != nil {
			return fmt.Errorf("normalize of a damaged answer %.200q: %w", damaged, err)
		}
	}
	return nil
}

// refuses reports a quote that Normalize does not refuse as it should.
func refuses(p pipeline.Provider, quote schema.QuoteFetched) error {
	prices, err := normalize(p, quote)
	if err == nil {
		return fmt.Errorf("gives %v", prices)
	}
	return checkQuoteError(err)
}

// normalize turns a panic into an error that is no QuoteError.
func normalize(p pipeline.Provider, quote schema.QuoteFetched) (prices []pipeline.Price, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %v", cause)
		}
	}()
	return p.Normalize(quote)
}
