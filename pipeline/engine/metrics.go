package engine

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// metrics are what a runtime counts.
type metrics struct {
	records     *prometheus.HistogramVec
	transaction *prometheus.HistogramVec
	retries     *prometheus.CounterVec
	deadLetters *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		records: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pricemill_stage_batch_records", Help: "Records of a batch.",
			Buckets: prometheus.ExponentialBuckets(1, 4, 7),
		}, []string{"stage"}),
		transaction: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pricemill_stage_transaction_seconds", Help: "Time of the transaction around a batch, the commit included.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}, []string{"stage"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pricemill_stage_retries_total", Help: "Attempts at a batch that failed and were made again.",
		}, []string{"stage"}),
		deadLetters: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pricemill_stage_dead_letters_total", Help: "Records that the stage put into the dead letters.",
		}, []string{"stage"}),
	}
	registry.MustRegister(m.records, m.transaction, m.retries, m.deadLetters)
	return m
}

// stageMetrics are the metrics of one stage.
type stageMetrics struct {
	records     prometheus.Observer
	transaction prometheus.Observer
	retries     prometheus.Counter
	deadLetters prometheus.Counter
}

func (m *metrics) of(stage string) stageMetrics {
	return stageMetrics{m.records.WithLabelValues(stage), m.transaction.WithLabelValues(stage),
		m.retries.WithLabelValues(stage), m.deadLetters.WithLabelValues(stage)}
}

// forget drops what was counted of a stage that is no more.
func (m *metrics) forget(stage string) {
	m.records.DeleteLabelValues(stage)
	m.transaction.DeleteLabelValues(stage)
	m.retries.DeleteLabelValues(stage)
	m.deadLetters.DeleteLabelValues(stage)
}

// scrapeTimeout bounds the questions a scrape asks of broker and database.
const scrapeTimeout = 2 * time.Second

var (
	positionDesc = prometheus.NewDesc("pricemill_stage_position", "Offset of the next record to be applied.",
		[]string{"stage", "topic", "partition"}, nil)
	endDesc = prometheus.NewDesc("pricemill_stage_end", "Offset after the last record of the log.",
		[]string{"stage", "topic", "partition"}, nil)
	lagDesc = prometheus.NewDesc("pricemill_stage_lag", "Records of the log that are not applied yet.",
		[]string{"stage", "topic", "partition"}, nil)
	haltedDesc = prometheus.NewDesc("pricemill_stage_halted", "1 where the stage has halted, else 0.",
		[]string{"stage", "topic", "partition"}, nil)
	depthDesc = prometheus.NewDesc("pricemill_relay_depth", "Events in the outbox that are not in the log yet.", nil, nil)
	ageDesc   = prometheus.NewDesc("pricemill_relay_age_seconds", "How long the outbox has not been empty.", nil, nil)
)

// Describe implements prometheus.Collector.
func (r *Runtime) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{positionDesc, endDesc, lagDesc, haltedDesc, depthDesc, ageDesc} {
		descs <- d
	}
}

// Collect implements prometheus.Collector: the partitions assigned to this
// process, so that the sum over all processes counts each once.
func (r *Runtime) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	ends := map[schema.Topic][]log.OffsetRange{}
	for _, stage := range r.present() {
		for tp, position := range stage.assigned() {
			if _, asked := ends[tp.Topic]; !asked {
				ranges, err := r.cfg.Broker.Offsets(ctx, tp.Topic)
				if err != nil {
					r.cfg.Log.Warn("asking for the ends of a topic failed", "topic", tp.Topic, "error", err)
				}
				ends[tp.Topic] = ranges
			}
			r.collectPartition(out, stage.spec.Name, tp, position, ends[tp.Topic])
		}
	}
	if r.cfg.Relay {
		r.collectRelay(ctx, out)
	}
}

func (r *Runtime) collectPartition(out chan<- prometheus.Metric, stage string, tp pipeline.TopicPartition, p store.Position, ranges []log.OffsetRange) {
	labels := []string{stage, string(tp.Topic), strconv.Itoa(int(tp.Partition))}
	gauge := func(d *prometheus.Desc, value float64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	gauge(positionDesc, float64(p.Next))
	if int(tp.Partition) < len(ranges) {
		end := ranges[tp.Partition].End
		gauge(endDesc, float64(end))
		gauge(lagDesc, float64(end-p.Next))
	}
	halted := 0.0
	if p.Halted != "" {
		halted = 1
	}
	gauge(haltedDesc, halted)
}

func (r *Runtime) collectRelay(ctx context.Context, out chan<- prometheus.Metric) {
	pending, err := r.cfg.Store.Pending(ctx)
	if err != nil {
		r.cfg.Log.Warn("asking for the depth of the outbox failed", "error", err)
		return
	}
	depth := int64(0)
	for _, chain := range pending {
		depth += chain.Last - chain.Sent
	}
	out <- prometheus.MustNewConstMetric(depthDesc, prometheus.GaugeValue, float64(depth))
	out <- prometheus.MustNewConstMetric(ageDesc, prometheus.GaugeValue, r.relay.Age().Seconds())
}
