package table_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
	"github.com/pricemill/pricemill/schema"
)

// prices makes n records as the service's are, with the nine headers of an event.
func prices(n int) []log.OutgoingRecord {
	records := make([]log.OutgoingRecord, n)
	for i := range records {
		records[i] = log.OutgoingRecord{Key: []byte("simulated/AAPL"), Value: fmt.Appendf(nil,
			`{"symbol":"AAPL","price":"%d.25","timestamp":"2026-01-02T03:04:05.678901Z","source":"simulated","raw_response_id":"%d"}`, i, i)}
		for h := range 9 {
			records[i].Headers = append(records[i].Headers, schema.Header{Key: fmt.Sprint("ce_header", h), Value: fmt.Appendf(nil, "value-%d-%d", h, i)})
		}
	}
	return records
}

func benchLog(b *testing.B) (*store.Store, log.Broker, schema.Topic) {
	b.Helper()
	engine, err := sqlite.Open(filepath.Join(b.TempDir(), "db"), sqlite.Expendable)
	require.NoError(b, err)
	db := openStore(b, engine)
	l := openLog(b, db)
	return db, l, newTopic(b, l)
}

func BenchmarkRead(b *testing.B) {
	_, l, topic := benchLog(b)
	const n = 100_000
	records := prices(500)
	for range n / len(records) {
		require.NoError(b, l.Send(b.Context(), []log.PartitionBatch{{TopicPartition: at(topic, 0), Records: records}})[0])
	}
	b.ReportAllocs()
	read := 0
	for b.Loop() {
		require.NoError(b, l.Read(b.Context(), at(topic, 0), 0, n, func(records []pipeline.Record) error {
			read += len(records)
			return nil
		}))
	}
	b.ReportMetric(float64(read)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkReadSingles reads a log whose records were appended one by one.
func BenchmarkReadSingles(b *testing.B) {
	_, l, topic := benchLog(b)
	const n = 5_000
	for _, r := range prices(n) {
		require.NoError(b, l.Send(b.Context(), []log.PartitionBatch{{TopicPartition: at(topic, 0), Records: []log.OutgoingRecord{r}}})[0])
	}
	b.ReportAllocs()
	read := 0
	for b.Loop() {
		require.NoError(b, l.Read(b.Context(), at(topic, 0), 0, n, func(records []pipeline.Record) error {
			read += len(records)
			return nil
		}))
	}
	b.ReportMetric(float64(read)/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{1, 500} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			_, l, topic := benchLog(b)
			records := prices(size)
			var batches []log.PartitionBatch
			for partition := range int32(4) {
				batches = append(batches, log.PartitionBatch{TopicPartition: at(topic, partition), Records: records})
			}
			b.ReportAllocs()
			sent := 0
			for b.Loop() {
				require.NoError(b, errors.Join(l.Send(b.Context(), batches)...))
				sent += 4 * size
			}
			b.ReportMetric(float64(sent)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
