package cmd_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/schema"
)

// fedAnswer is one answer of a stream, with an identity of its own.
type fedAnswer struct {
	id    string
	quote schema.QuoteFetched
}

// fedSymbols is the number of symbols of the answers: S0, S1, …
const fedSymbols = 200

// makeAnswers makes n answers, received one after the other from start. Of some
// the provider's clock says an earlier time than of those before them.
func makeAnswers(random *rand.Rand, n int, start time.Time) []fedAnswer {
	return makeAnswersAt(feedRate, random, n, start)
}

// makeAnswersAt makes answers that are received so many a second.
func makeAnswersAt(rate int, random *rand.Rand, n int, start time.Time) []fedAnswer {
	step := time.Second / time.Duration(rate)
	answers := make([]fedAnswer, n)
	for i := range answers {
		symbol := schema.Symbol("S" + strconv.Itoa(random.IntN(fedSymbols)))
		// Each event time is its own, so no answer repeats a price.
		received := start.Add(time.Duration(i) * step)
		at := received
		if random.IntN(20) == 0 {
			at = at.Add(-time.Duration(random.IntN(2000)) * time.Millisecond).Add(time.Microsecond * time.Duration(1+i%900))
		}
		payload := fmt.Sprintf(`{"simulated":true,"provider":"simulated","symbol":%q,"price":"%d.%08d","time":%q}`,
			symbol, 1+random.IntN(100000), random.IntN(100_000_000), at.Format(time.RFC3339Nano))
		answers[i] = fedAnswer{"trade-" + strconv.Itoa(i), schema.QuoteFetched{
			Quote: schema.Quote{Provider: "simulated", Symbol: symbol}, RawResponse: schema.RawResponse(payload),
			ReceivedAt: schema.NewTime(received)}}
	}
	return answers
}

// feed appends all answers to raw-quotes, each partition in order, sending
// again whatever was not acknowledged, as a stream does after a reconnect.
func feed(t testing.TB, env environment, answers []fedAnswer) {
	feedWhenDue(t, env, answers, 2*time.Second, func(int) int { return len(answers) })
}

// feedSteadily is feed at the rate at which the answers are received, or faster
// where it is late, until it is stopped. It returns how many it has fed.
func feedSteadily(t testing.TB, env environment, answers []fedAnswer, stop <-chan struct{}) int {
	return feedWhenDue(t, env, answers, time.Second/2, func(from int) int {
		select {
		case <-stop:
			return -1
		default:
		}
		now, due := time.Now(), from
		for due < len(answers) && !answers[due].quote.ReceivedAt.Time.After(now) {
			due++
		}
		return due
	})
}

// feedAt is feed at a rate of so many a second, or faster where it is late, until
// it is stopped; the first, enough for all symbols, at once. It returns how many it
// has fed.
func feedAt(t testing.TB, env environment, answers []fedAnswer, rate int, stop <-chan struct{}) int {
	began := time.Now()
	return feedWhenDue(t, env, answers, time.Second/2, func(int) int {
		select {
		case <-stop:
			return -1
		default:
			return min(len(answers), 10*fedSymbols+int(time.Since(began)*time.Duration(rate)/time.Second))
		}
	})
}

// feedWhenDue asks due how many of the answers may be sent by now, of which from
// are, and ends where the number is negative. A broker that says nothing for so
// long is dead: it looks for the one that came in its place. It returns how many
// it has fed.
func feedWhenDue(t testing.TB, env environment, answers []fedAnswer, patience time.Duration, due func(from int) int) int {
	var broker eventLog
	defer func() {
		if broker != nil {
			assert.NoError(t, broker.Close())
		}
	}()
	const chunk = 2000
	var partitions int32
	from, to := 0, 0
	for from < len(answers) {
		if broker == nil {
			var err error
			if broker, partitions, err = reach(env); err != nil {
				if due(from) < 0 {
					break // no one waits for the rest, and there may be no broker any more
				}
				pause(20 * time.Millisecond)
				continue
			}
		}
		if from == to { // all that was sent is acknowledged
			if to = min(from+chunk, due(from)); to < 0 {
				break
			}
			if from == to {
				pause(5 * time.Millisecond)
				continue
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		errs := broker.Send(ctx, batchesOf(t, answers[from:to], partitions))
		cancel()
		err := errors.Join(errs...)
		if err == nil {
			from = to
			continue
		}
		t.Logf("feeding from %d: %v", from, err)
		assert.NoError(t, broker.Close())
		broker = nil
	}
	return from
}

// pause lies between two looks at another process, which gives no signal.
func pause(d time.Duration) { <-time.After(d) }

// reach returns the broker, and how many partitions a topic has.
func reach(env environment) (eventLog, int32, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	broker, err := dial(ctx, env)
	if err != nil {
		return nil, 0, err
	}
	ranges, err := broker.Offsets(ctx, schema.RawQuotes)
	if err != nil {
		return nil, 0, errors.Join(err, broker.Close())
	}
	return broker, int32(len(ranges)), nil
}

func batchesOf(t testing.TB, answers []fedAnswer, partitions int32) []log.PartitionBatch {
	batches := make([]log.PartitionBatch, partitions)
	for p := range batches {
		batches[p].TopicPartition = pipeline.TopicPartition{Topic: schema.RawQuotes, Partition: int32(p)}
	}
	for _, a := range answers {
		headers, value, err := schema.Event{ID: a.id, Source: "test", Payload: a.quote}.Encode()
		if !assert.NoError(t, err) {
			continue
		}
		key := []byte(a.quote.Key())
		b := &batches[kafka.Partition(key, partitions)]
		b.Records = append(b.Records, log.OutgoingRecord{Key: key, Headers: headers, Value: value})
	}
	return slices.DeleteFunc(batches, func(b log.PartitionBatch) bool { return len(b.Records) == 0 })
}
