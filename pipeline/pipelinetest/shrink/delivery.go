package shrink

import (
	"errors"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// ErrDeadLetters is wrapped by a stage's error where records became dead letters.
var ErrDeadLetters = errors.New("records became dead letters")

// Stage is as much of a pipelinetest.Stage as a delivery needs.
type Stage interface {
	TryRestart() error
	Undo(times int)
	Deliver(records ...pipeline.Record) error
}

// DeliverBatch delivers a batch of records.
func DeliverBatch(s Stage, b Batch, records []pipeline.Record) error {
	if b.Session {
		if err := s.TryRestart(); err != nil {
			return err
		}
	}
	s.Undo(b.Undo)
	batch := make([]pipeline.Record, len(b.Events))
	for i, e := range b.Events {
		batch[i] = records[e]
	}
	return s.Deliver(batch...)
}

// Deliver delivers the records of a case as its batches say. Start starts the stage of a
// new process, which stop stops. Spoilt records become dead letters; any other fault is an
// error.
func Deliver[S Stage](c Case, records []pipeline.Record, start func() S, stop func(S)) error {
	for i, e := range c.Events {
		if e.Spoilt {
			records[i].Value = []byte(`{"symbol":`)
		}
	}
	batches := c.Batches
	if batches == nil {
		batches = []Batch{{Events: indexes(len(records))}}
	}
	stage := start()
	defer func() { stop(stage) }()
	for _, b := range batches {
		if b.Process {
			stop(stage)
			stage = start()
		}
		err := DeliverBatch(stage, b, records)
		spoilt := slices.ContainsFunc(b.Events, func(e int) bool { return c.Events[e].Spoilt })
		if spoilt && errors.Is(err, ErrDeadLetters) {
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// InOrder reports whether a case delivers the records of each partition in the order of the
// log. One that was made smaller may not: another symbol is on another partition.
func (c Case) InOrder(records []pipeline.Record) bool {
	last := map[pipeline.TopicPartition]int{}
	for _, b := range c.Batches {
		for _, e := range b.Events {
			tp := records[e].TopicPartition
			if before, known := last[tp]; known && e < before {
				return false
			}
			last[tp] = e
		}
	}
	return true
}

func indexes(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// Draw draws how payloads are delivered, of which records are the records: in an order that
// keeps that of each partition, in batches, and by another process from some event on.
func Draw(t *rapid.T, payloads []schema.Payload, records []pipeline.Record) Case {
	c := New(payloads)
	order := Interleave(t, records)
	middle := rapid.IntRange(0, len(order)).Draw(t, "another process from")
	c.Batches = DrawBatches(t, order[:middle])
	second := DrawBatches(t, order[middle:])
	if len(c.Batches) > 0 && len(second) > 0 {
		second[0].Process = true
	}
	c.Batches = append(c.Batches, second...)
	return c
}

// DrawBatches cuts events into batches; some are rolled back first, and before some a new
// session begins.
func DrawBatches(t *rapid.T, events []int) []Batch {
	var batches []Batch
	for len(events) > 0 {
		n := rapid.IntRange(1, len(events)).Draw(t, "batch")
		batches = append(batches, Batch{Events: events[:n], Session: rapid.IntRange(0, 2).Draw(t, "restart") == 0,
			Undo: max(0, rapid.IntRange(-3, 2).Draw(t, "undo"))})
		events = events[n:]
	}
	return batches
}

// Interleave draws an order of records in which those of each partition keep theirs, and
// returns their indexes.
func Interleave(t *rapid.T, records []pipeline.Record) []int {
	var partitions []pipeline.TopicPartition
	left := map[pipeline.TopicPartition][]int{}
	for i, r := range records {
		if _, known := left[r.TopicPartition]; !known {
			partitions = append(partitions, r.TopicPartition)
		}
		left[r.TopicPartition] = append(left[r.TopicPartition], i)
	}
	order := make([]int, 0, len(records))
	for len(partitions) > 0 {
		at := rapid.IntRange(0, len(partitions)-1).Draw(t, "next partition")
		tp := partitions[at]
		n := rapid.IntRange(1, len(left[tp])).Draw(t, "records of it")
		order = append(order, left[tp][:n]...)
		if left[tp] = left[tp][n:]; len(left[tp]) == 0 {
			partitions = append(partitions[:at], partitions[at+1:]...)
		}
	}
	return order
}

// OneByOne is the case in which the records that can be decoded come one at a time: the
// plainest way to read a log.
func (c Case) OneByOne() Case {
	c.Batches = []Batch{}
	for i, e := range c.Events {
		if !e.Spoilt {
			c.Batches = append(c.Batches, Batch{Events: []int{i}})
		}
	}
	return c
}

// Spoil makes every third event one that cannot be decoded.
func (c Case) Spoil() Case {
	c.Events = slices.Clone(c.Events)
	for i := range c.Events {
		c.Events[i].Spoilt = i%3 == 1
	}
	return c
}

// TB is what Require needs of a test.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
	FailNow()
}

// Require fails if run gives other lines for c than it should, with the smallest case that
// it finds for which it does. fault says what is wrong, and wanted where the right lines
// come from. It returns the result of c.
func Require(t TB, c Case, fault, wanted string, run func(Case) Result) Result {
	t.Helper()
	result := run(c)
	if result.Differs() {
		smallest, its := Smallest(c, run)
		t.Errorf("%s\n%s", fault, Text(smallest, its, wanted))
		t.FailNow()
	}
	return result
}

// quiet is a test to which rapid does not say that all is well.
type quiet struct{ rapid.TB }

func (q quiet) Logf(format string, args ...any) {
	if !strings.HasPrefix(format, "[rapid] OK") {
		q.TB.Logf(format, args...)
	}
}

// Check is Require for cases that rapid draws. rapid makes nothing smaller: it would run
// the search many times over, and print each draw.
func Check(t rapid.TB, draw func(*rapid.T) Case, fault, wanted string, run func(Case) Result) {
	t.Helper()
	var failing *Case
	rapid.Check(quiet{t}, func(t *rapid.T) {
		if failing == nil {
			if c := draw(t); run(c).Differs() {
				failing = &c
			}
		}
	})
	if failing != nil {
		Require(t, *failing, fault, wanted, run)
	}
}
