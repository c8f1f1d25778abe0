package projections

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/rowid"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// The list of prices, that of processed-prices, has every price. Averages, latest prices
// and candles read it where a correction takes apart what they added up, so that they need
// no row of their own for each price. What they read is a function of the log alone,
// wherever the list is by then:
//
//   - The fold that reads holds the list's position on its partitions, and the list must be
//     there, or beyond: else the batch is tried again. A fold never waits for the list
//     within its transaction, so none waits for another in a circle.
//   - A price that the fold has not applied yet is left out, by its place in the log.
//   - Each price is read as it came, and the fold's own corrections are applied to it.

const (
	// PriceListName is the name of the projection that has the list of prices.
	PriceListName = "processed-prices"
	// PriceListTable is the plain name of the table of prices. Its corrected prices are as
	// they came in the tables of a Corrections with this Table.
	PriceListTable = "processed_prices"
	// PriceListVersion is the version of its fold. Others may have other tables.
	PriceListVersion = 3
)

// ErrListBehind says that the list of prices does not have the prices yet that a
// correction needs. The batch is tried again.
var ErrListBehind = errors.New("the list of prices does not have all earlier prices yet")

// ErrListLacks says that the list of prices lacks a price that it refused.
var ErrListLacks = errors.New("the list of prices lacks an earlier price of the symbol")

// listPause is how soon a batch is tried again for which the list is behind.
const listPause = 25 * time.Millisecond

// priceList is a generation of the list of prices, as far as a fold has come.
type priceList struct {
	tx    *pipeline.Tx
	table string
	kept  string // as they came
	// below is the first row id of each partition that the fold has not applied before
	// the batch, by rowid.Partition. Partitions of earlier logs are absent: all was applied.
	below map[int64]int64
	// not are those below that it has not: its dead letters, and late records of the batch.
	not map[int64]bool
	// refused are the keys of records that the list lacks and the fold has.
	refused map[string]string
}

// openList opens the list for a batch of a generation, which is not empty.
func openList(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) (*priceList, error) {
	l := &priceList{tx: tx, below: map[int64]int64{}, not: map[int64]bool{}, refused: map[string]string{}}
	own, topic := in[0].State.Stage, schema.PriceEvents
	positions, err := l.positions(ctx, own, topic)
	if err != nil {
		return nil, err
	}
	for _, p := range positions {
		l.below[rowid.Partition(p.id)] = p.id
	}
	needed := map[int32]int64{} // next offset by partition
	for i := range in {
		r := &in[i]
		if r.Topic != topic {
			continue
		}
		id, err := r.RowID(0)
		if err != nil {
			return nil, pipeline.Permanent(err)
		}
		part := rowid.Partition(id)
		if r.State.Late {
			l.not[id] = true
			if below, ok := l.below[part]; ok {
				needed[r.Partition] = rowid.Offset(below)
			}
			continue
		}
		if _, again := needed[r.Partition]; !again {
			l.below[part], needed[r.Partition] = id, r.Offset
		}
	}
	source, err := l.choose(ctx, g, topic, needed)
	if err != nil {
		return nil, err
	}
	return l, l.letters(ctx, topic, own, source)
}

// listPosition is how far a stage is on a partition.
type listPosition struct {
	Part  int32 `db:"part"`
	Next  int64 `db:"next_offset"`
	Epoch int64 `db:"epoch"`
	id    int64 // of the next record
}

func (l *priceList) positions(ctx context.Context, stage string, topic schema.Topic) ([]listPosition, error) {
	var positions []listPosition
	err := l.tx.Select(ctx, &positions, `SELECT p.part, p.next_offset, MAX(t.epoch) AS epoch FROM positions p
		JOIN topics t ON t.name = p.topic AND t.topic_id = p.topic_id
		WHERE p.stage = $1 AND p.topic = $2 GROUP BY p.part, p.next_offset ORDER BY p.part`, stage, topic)
	if err != nil {
		return nil, fmt.Errorf("reading how far %s is: %w", stage, err)
	}
	for i, p := range positions {
		if positions[i].id, err = rowid.Of(p.Epoch, p.Part, p.Next, 0); err != nil {
			return nil, fmt.Errorf("reading how far %s is: %w", stage, err)
		}
	}
	return positions, nil
}

// choose chooses a generation of the list that has all that is needed and takes the same
// renormalizations as the one that reads it, the one that serves first, and holds its positions until the transaction ends. It returns its stage.
func (l *priceList) choose(ctx context.Context, g pipeline.Generation, topic schema.Topic, needed map[int32]int64) (stage string, err error) {
	var rows []generationRow
	err = l.tx.Select(ctx, &rows, `SELECT `+generationColumns+` FROM generations WHERE projection = $1 AND fold = $2
		AND renormalizations = COALESCE((SELECT renormalizations FROM generations WHERE projection = $3 AND number = $4), '')
		ORDER BY active DESC, number DESC`, PriceListName, "v"+strconv.Itoa(PriceListVersion), g.Projection, g.Number)
	if err != nil {
		return "", fmt.Errorf("looking for the list of prices: %w", err)
	}
	behind := fmt.Errorf("no generation of %s has the tables of this version and the same renormalizations: wait until it was built again: pricemill rebuild list", PriceListName)
	for _, row := range rows {
		g := row.generation()
		for _, stage := range []string{stageName(g), scratchStage(g)} {
			lacks, err := l.hold(ctx, stage, topic, needed)
			if err != nil {
				return "", err
			}
			if lacks != "" {
				behind = errors.New(lacks)
				continue
			}
			// A swap holds the positions first, so this is true until the end.
			var now generationRow
			err = l.tx.Get(ctx, &now, `SELECT `+generationColumns+` FROM generations WHERE projection = $1 AND number = $2`, PriceListName, row.Number)
			if err != nil {
				return "", fmt.Errorf("looking for the list of prices: %w", err)
			}
			l.table, l.kept = now.generation().Table(PriceListTable), now.generation().Table(PriceListTable+"_corrected")
			return stage, nil
		}
	}
	return "", pipeline.RetryAfter(listPause, fmt.Errorf("%w: %w", ErrListBehind, behind))
}

// hold holds the positions of a stage of the list, and says what it lacks.
func (l *priceList) hold(ctx context.Context, stage string, topic schema.Topic, needed map[int32]int64) (lacks string, err error) {
	var held []struct {
		Part   int32  `db:"part"`
		Next   int64  `db:"next_offset"`
		Halted string `db:"halted"`
	}
	parts := make([]int64, 0, len(needed))
	for part := range needed {
		parts = append(parts, int64(part))
	}
	args := []any{stage, topic}
	in := ""
	for i, part := range slices.Sorted(slices.Values(parts)) {
		args = append(args, part)
		in += ", $" + strconv.Itoa(i+3)
	}
	if in == "" {
		return "", nil
	}
	err = l.tx.Select(ctx, &held, `SELECT part, next_offset, halted FROM positions WHERE stage = $1 AND topic = $2 AND part IN (`+in[2:]+`)
		ORDER BY stage, topic, part `+l.tx.LockRows("positions"), args...)
	if err != nil {
		return "", fmt.Errorf("holding the positions of %s: %w", stage, err)
	}
	at := map[int32]int64{}
	for _, p := range held {
		if at[p.Part] = p.Next; p.Next < needed[p.Part] && p.Halted != "" {
			return fmt.Sprintf("%s has halted on %s/%d: %s", stage, topic, p.Part, p.Halted), nil
		}
	}
	for part, next := range needed {
		if at[part] < next {
			return fmt.Sprintf("%s is at offset %d of %s/%d, and %d is needed", stage, at[part], topic, part, next), nil
		}
	}
	return "", nil
}

// letters notes which prices only one of the list and the fold has.
func (l *priceList) letters(ctx context.Context, topic schema.Topic, own, source string) error {
	var letters []struct {
		Stage  string `db:"stage"`
		Part   int32  `db:"part"`
		Offset int64  `db:"log_offset"`
		Epoch  int64  `db:"epoch"`
		Key    []byte `db:"msg_key"`

		Headers []byte `db:"headers"`
		Payload []byte `db:"payload"`
	}
	err := l.tx.Select(ctx, &letters, `SELECT d.stage, d.part, d.log_offset, d.msg_key, d.headers, d.payload, CASE WHEN d.epoch > 0 THEN d.epoch ELSE t.epoch END AS epoch
		FROM dead_letters d JOIN (SELECT name, topic_id, MAX(epoch) AS epoch FROM topics GROUP BY name, topic_id) t ON t.name = d.topic AND t.topic_id = d.topic_id
		WHERE d.stage IN ($1, $2) AND d.topic = $3`, own, source, topic)
	if err != nil {
		return fmt.Errorf("reading the dead letters of %s: %w", source, err)
	}
	lacks := map[int64][]byte{}
	for _, d := range letters {
		id, err := rowid.Of(d.Epoch, d.Part, d.Offset, 0)
		if err != nil {
			return err
		}
		if d.Stage == own {
			l.not[id] = true
			continue
		}
		// What cannot be read, the fold has not applied either.
		if headers, err := store.DecodeHeaders(d.Headers); err == nil {
			if _, err := schema.DecodeEvent(headers, d.Payload); err == nil {
				lacks[id] = d.Key
			}
		}
	}
	for id, key := range lacks {
		if l.applied(id) {
			l.refused[string(key)] = fmt.Sprintf("that of offset %d is a dead letter of %s: retry it, and then this one", rowid.Offset(id), source)
		}
	}
	return nil
}

// applied reports whether the fold has applied a fact before the batch.
func (l *priceList) applied(id int64) bool {
	below, known := l.below[rowid.Partition(id)]
	return (!known || id < below) && !l.not[id]
}

// complete reports a price of a market that the list lacks.
func (l *priceList) complete(m market) error {
	for _, key := range []string{m.String(), string(m.symbol)} {
		if why, lacks := l.refused[key]; lacks {
			return pipeline.Permanent(fmt.Errorf("%w: %s", ErrListLacks, why))
		}
	}
	return nil
}

// listRow is a price in the list.
type listRow struct {
	FactRow
	EventID    string          `db:"event_id"`
	ReceivedAt schema.Time     `db:"received_at"`
	Size       *schema.Decimal `db:"size"`
	OpenTime   *schema.Time    `db:"open_time"`
}

const listColumns = `id, symbol, provider, timestamp, sequence, price, event_id, received_at, size, open_time`

func (r listRow) fact() Fact {
	f := r.FactRow.Fact()
	f.EventID, f.ReceivedAt, f.Key = r.EventID, r.ReceivedAt, FactKey(r.EventID)
	if r.Size != nil {
		f.Size = *r.Size
	}
	if r.OpenTime != nil {
		f.Bar = &schema.Bar{OpenTime: *r.OpenTime}
	}
	return f
}

// read reads facts as they came. where and order are SQL about the columns that both tables
// have.
func (l *priceList) read(ctx context.Context, where string, args ...any) ([]Fact, error) {
	return l.readEach(ctx, func(selected string) string { return selected + where }, args...)
}

// readEach is read by statements that begin with a SELECT and the WHERE.
func (l *priceList) readEach(ctx context.Context, statement func(selected string) string, args ...any) ([]Fact, error) {
	var rows []listRow
	if err := l.tx.Select(ctx, &rows, statement(`SELECT `+listColumns+` FROM `+l.table+` WHERE correction_id IS NULL AND `), args...); err != nil {
		return nil, fmt.Errorf("reading the list of prices: %w", err)
	}
	var kept []struct {
		Fact string `db:"fact"`
	}
	if err := l.tx.Select(ctx, &kept, statement(`SELECT fact FROM `+l.kept+` WHERE `), args...); err != nil {
		return nil, fmt.Errorf("reading the list of prices: %w", err)
	}
	facts := make([]Fact, 0, len(rows)+len(kept))
	for _, r := range rows {
		facts = append(facts, r.fact())
	}
	for _, k := range kept {
		var f Fact
		if err := json.Unmarshal([]byte(k.Fact), &f); err != nil {
			return nil, fmt.Errorf("reading a fact as it came: %w", err)
		}
		f.Key = FactKey(f.EventID)
		facts = append(facts, f)
	}
	return facts, nil
}

// named are the applied facts of some names.
func (l *priceList) named(ctx context.Context, names []FactName) ([]Fact, error) {
	wanted := make(map[FactName]bool, len(names))
	args := make([]any, 0, 3*len(names))
	for _, n := range names {
		if err := l.complete(market{n.Symbol, n.Provider}); err != nil {
			return nil, err
		}
		wanted[n] = true
		args = append(args, n.Symbol, n.Provider, n.Timestamp)
	}
	facts, err := l.readEach(ctx, func(selected string) string {
		return store.ForEach(selected+`symbol = ? AND provider = ? AND timestamp = ?`, len(names))
	}, args...)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(facts, func(a, b Fact) int { return cmp.Compare(a.ID, b.ID) })
	facts = slices.CompactFunc(facts, func(a, b Fact) bool { return a.ID == b.ID }) // two names may be of one time
	return slices.DeleteFunc(facts, func(f Fact) bool { return !wanted[nameOf(f)] || !l.applied(f.ID) }), nil
}
