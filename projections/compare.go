package projections

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/audit"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/schema"
)

// CompareConfig is what comparisons need. Store, Broker, Topics, Log and Most are
// required.
type CompareConfig struct {
	Store  *store.Store
	Broker log.Broker
	Topics *topics.Set
	Log    *slog.Logger
	// Progress is as in engine.FillConfig.
	Progress func(records int)
	// Beside is as in engine.FillConfig.
	Beside bool
	// Most is how many differences are described.
	Most int
}

// Comparison compares what a projection serves with what the log says: it fills
// another generation, while the one that serves continues, and compares the two at
// equal positions.
type Comparison struct {
	cfg        CompareConfig
	projection pipeline.Projection
	finding    *audit.Finding
	fold       string // that serves
	serving    pipeline.Generation
	filled     pipeline.Generation
	fill       *engine.Fill
	// tolerant has a table that only one of them has be a difference.
	tolerant bool
	// revised are the ids of rows of the list of prices that a renormalization revises; nil
	// where the generation is no part of one.
	revised map[int64]bool
}

// Compare begins a comparison. What is in its way is not an error, but a finding
// of Prove.
func (s *Scratch) Compare(ctx context.Context, cfg CompareConfig, p pipeline.Projection) (*Comparison, error) {
	c, err := newComparison(ctx, cfg, p)
	if err != nil {
		return nil, err
	}
	switch {
	case c.fold == "":
		c.finding.Inconclusive("it has no tables yet: no service with this projection has run")
		return c, nil
	case c.fold != fingerprint(p):
		c.finding.Inconclusive("its tables were built by the fold %q, and this binary has %q: start a service of this binary and settings, which builds them again",
			c.fold, fingerprint(p))
		return c, nil
	}
	var spec engine.StageSpec
	if c.filled, spec, err = s.Create(ctx, p); err != nil {
		return nil, err
	}
	c.fill = engine.NewFill(engine.FillConfig{Store: cfg.Store, Broker: cfg.Broker, Topics: cfg.Topics, Stage: spec,
		Log: cfg.Log, Progress: cfg.Progress, Beside: cfg.Beside})
	return c, nil
}

func newComparison(ctx context.Context, cfg CompareConfig, p pipeline.Projection) (*Comparison, error) {
	c := &Comparison{cfg: cfg, projection: p, finding: audit.NewFinding("projection "+p.Name(), cfg.Most)}
	var err error
	c.serving, c.fold, err = servedGeneration(ctx, cfg.Store, p.Name())
	return c, err
}

// servedGeneration is the one that serves, and the fold that built it; "" where
// there is none.
func servedGeneration(ctx context.Context, q store.Querier, projection string) (pipeline.Generation, string, error) {
	var row generationRow
	err := q.Get(ctx, &row, `SELECT number, fold FROM generations WHERE projection = $1 AND active = 1`, projection)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return pipeline.Generation{}, "", fmt.Errorf("reading the generations of %s: %w", projection, err)
	}
	return pipeline.Generation{Projection: projection, Number: row.Number, Active: true}, row.Fold, nil
}

// targets are the positions of the generation that serves.
func (c *Comparison) targets(ctx context.Context, q store.Querier) (map[pipeline.TopicPartition]int64, error) {
	positions, err := store.Positions(ctx, q, stageName(c.serving))
	if err != nil {
		return nil, err
	}
	if err := c.limits(ctx, q); err != nil {
		return nil, err
	}
	infos, err := c.cfg.Broker.Topics(ctx, topicsOf(c.projection))
	if err != nil {
		return nil, fmt.Errorf("looking at the topics: %w", err)
	}
	targets := map[pipeline.TopicPartition]int64{}
	for _, p := range positions {
		tp := pipeline.TopicPartition{Topic: schema.Topic(p.Topic), Partition: p.Part}
		if infos[tp.Topic].ID != p.TopicID {
			c.finding.Inconclusive("%s was created again, and %s is in the topic that is gone: see pricemill stages list", tp.Topic, p.Stage)
			continue
		}
		targets[tp] = p.Next
	}
	return targets, nil
}

func topicsOf(p pipeline.Projection) []schema.Topic {
	return engine.StageSpec{Consumes: p.Consumes()}.Topics()
}

// limits notes what the log does not have any more.
func (c *Comparison) limits(ctx context.Context, q store.Querier) error {
	for _, topic := range topicsOf(c.projection) {
		held, err := c.cfg.Broker.Offsets(ctx, topic)
		if err != nil {
			return fmt.Errorf("asking for the ends of %s: %w", topic, err)
		}
		for part, r := range held {
			if r.Oldest > 0 {
				c.finding.NotChecked("%s/%d begins at offset %d: the results of earlier records cannot be reproduced", topic, part, r.Oldest)
			}
		}
		var epochs int
		if err := q.Get(ctx, &epochs, `SELECT COUNT(*) FROM topics WHERE name = $1`, string(topic)); err != nil {
			return fmt.Errorf("reading the incarnations of %s: %w", topic, err)
		}
		if epochs > 1 {
			c.finding.NotChecked("%s was created again, or its log lost its end: the results of records that are gone cannot be reproduced", topic)
		}
	}
	return nil
}

// Fill fills up to where the generation that serves stands now. It may be called
// several times; what it is behind by at the end is for Prove.
func (c *Comparison) Fill(ctx context.Context) error {
	if c.fill == nil {
		return nil
	}
	return c.unlessUnreadable(c.fillTo(ctx, c.cfg.Store))
}

// unlessUnreadable makes a row that cannot be read a difference, which ends the
// comparison.
func (c *Comparison) unlessUnreadable(err error) error {
	if !errors.Is(err, store.ErrUnreadable) {
		return err
	}
	c.finding.Differ("%v", err)
	c.finding.Inconclusive("its tables were not compared, or not all of them")
	c.fill = nil
	return nil
}

func (c *Comparison) fillTo(ctx context.Context, q store.Querier) error {
	targets, err := c.targets(ctx, q)
	if err != nil {
		return err
	}
	err = c.fill.To(ctx, targets)
	switch {
	case errors.Is(err, engine.ErrHalted), errors.Is(err, engine.ErrBeyond), errors.Is(err, engine.ErrPast),
		errors.Is(err, log.ErrDamaged):
		c.finding.Inconclusive("%v", err)
		c.fill = nil
		return nil
	}
	return err
}

// Prove fills up to where the generation that serves is in a snapshot, and
// compares the two.
func (c *Comparison) Prove(ctx context.Context, live *store.Snapshot) (*audit.Finding, error) {
	if c.fill == nil {
		return c.finding, nil
	}
	finding, err := c.prove(ctx, live)
	if err = c.unlessUnreadable(err); err != nil {
		return nil, err
	}
	if finding == nil {
		finding = c.finding
	}
	return finding, nil
}

func (c *Comparison) prove(ctx context.Context, live *store.Snapshot) (*audit.Finding, error) {
	serving, fold, err := servedGeneration(ctx, live, c.projection.Name())
	if err != nil {
		return nil, err
	}
	if serving != c.serving || fold != c.fold {
		c.finding.Inconclusive("the generation was replaced by another one meanwhile: try again")
		return c.finding, nil
	}
	if err := c.fillTo(ctx, live); err != nil || c.fill == nil {
		return c.finding, err
	}
	fresh, err := c.cfg.Store.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	defer fresh.Close()
	var proofs []Proof
	for _, table := range c.projection.TableNames() {
		var revised map[int64]bool
		if table == PriceListTable {
			revised = c.revised
		}
		proof, err := prove(ctx, live, fresh, table, forgottenRows(c.projection, table), c.serving, c.filled, c.cfg.Most, revised)
		if c.tolerant && errors.Is(err, ErrOtherTable) {
			c.finding.Differ("%v", err)
			continue
		}
		if err != nil {
			return nil, err
		}
		proofs = append(proofs, proof)
		c.note(proof)
	}
	c.finding.Tables = proofs
	if err := c.compareLetters(ctx, live, fresh); err != nil {
		return nil, err
	}
	for _, r := range c.fill.Breaks() {
		c.finding.NotChecked("%s/%d: %s; an operator had the service continue: that loses %s", r.Topic, r.Partition, r.Halted, r.Loses)
	}
	if c.finding.Found > 0 && len(c.finding.Limits) > 0 {
		c.finding.Lost, c.finding.Doubled = 0, 0
		c.finding.Inconclusive("the log does not hold all that the tables were made of: see the limits")
	}
	return c.finding, nil
}

func (c *Comparison) note(p Proof) {
	c.finding.Count("rows", p.Rows)
	if p.Forgotten > 0 {
		c.finding.Count("rows past retention", p.Forgotten)
	}
	c.finding.Add(p.Missing+p.Extra+p.Differing, p.Missing, p.Extra, p.First...)
}

// letter is the place of a dead letter.
type letter struct {
	Topic   string `db:"topic"`
	TopicID string `db:"topic_id"`
	Part    int32  `db:"part"`
	Offset  int64  `db:"log_offset"`
}

// compareLetters: both generations must have skipped the same records. What
// is lost by it shows in the rows, or in the audit of the stage.
func (c *Comparison) compareLetters(ctx context.Context, live, fresh *store.Snapshot) error {
	const query = `SELECT topic, topic_id, part, log_offset FROM dead_letters WHERE stage = $1`
	var served, logged []letter
	if err := live.Select(ctx, &served, query, stageName(c.serving)); err != nil {
		return fmt.Errorf("reading the dead letters of %s: %w", stageName(c.serving), err)
	}
	if err := fresh.Select(ctx, &logged, query, scratchStage(c.filled)); err != nil {
		return fmt.Errorf("reading the dead letters of %s: %w", scratchStage(c.filled), err)
	}
	c.finding.Count("dead letters", int64(len(served)))
	in := map[letter]bool{}
	for _, l := range logged {
		in[l] = true
	}
	for _, l := range served {
		if !in[l] {
			c.finding.Differ("the record at offset %d of %s/%d is a dead letter, and the fold takes it", l.Offset, l.Topic, l.Part)
		}
		delete(in, l)
	}
	for l := range in {
		c.finding.Differ("the record at offset %d of %s/%d is no dead letter, and the fold refuses it", l.Offset, l.Topic, l.Part)
	}
	return nil
}
