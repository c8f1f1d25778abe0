package projections_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

var (
	serving = pipeline.Generation{Projection: "p", Number: 1, Active: true}
	filled  = pipeline.Generation{Projection: "p", Number: 2}
)

// newPair makes the tables of two generations.
func newPair(t *testing.T, columns string) *store.Store {
	t.Helper()
	db := pipelinetest.OpenStore(t, t.TempDir()+"/db")
	require.NoError(t, db.Write(t.Context(), func(tx *store.Tx) error {
		for _, g := range []pipeline.Generation{serving, filled} {
			if err := tx.DDL(t.Context(), `CREATE TABLE `+g.Table("pairs")+` (`+columns+`)`); err != nil {
				return err
			}
		}
		return nil
	}))
	return db
}

// prove compares the two as they are.
func prove(t require.TestingT, db *store.Store, most int) projections.Proof {
	ctx := context.Background()
	live, err := db.Snapshot(ctx)
	require.NoError(t, err)
	defer live.Close()
	fresh, err := db.Snapshot(ctx)
	require.NoError(t, err)
	defer fresh.Close()
	proof, err := projections.Prove(ctx, live, fresh, "pairs", "", serving, filled, most)
	require.NoError(t, err)
	return proof
}

type pairKey struct {
	word   string
	number int64
}

type pair struct {
	value any
	note  string
}

// A proof counts what a naive comparison of all rows counts, and its hashes are
// those of the rows.
func TestAProofCountsEveryDifference(t *testing.T) {
	t.Parallel()
	db := newPair(t, `word {text} NOT NULL, number {int} NOT NULL, value {decimal}, note {text} NOT NULL, PRIMARY KEY (word, number)`)
	keys := rapid.Custom(func(t *rapid.T) pairKey {
		return pairKey{rapid.SampledFrom([]string{"", "a", "B", "b", "é", "a b"}).Draw(t, "word"), rapid.Int64Range(-2, 12).Draw(t, "number")}
	})
	values := rapid.Custom(func(t *rapid.T) pair {
		value := rapid.SampledFrom([]any{nil, "", "1", "1.000000000000000001", "10"}).Draw(t, "value")
		return pair{value, rapid.SampledFrom([]string{"", "x"}).Draw(t, "note")}
	})
	hashes := map[string]string{} // of rows, by their hash
	rapid.Check(t, func(rt *rapid.T) {
		logged := rapid.MapOfN(keys, values, 0, 30).Draw(rt, "rows by the log")
		served := map[pairKey]pair{}
		for key, row := range logged {
			if rapid.IntRange(0, 9).Draw(rt, "kept") > 0 {
				served[key] = row
			}
		}
		for key, row := range rapid.MapOfN(keys, values, 0, 3).Draw(rt, "written over") {
			served[key] = row
		}
		write(rt, db, serving, served)
		write(rt, db, filled, logged)

		var largest schema.Decimal
		want := projections.Proof{Table: "pairs", Rows: int64(len(served)), Fresh: int64(len(logged))}
		for key, row := range served {
			if other, there := logged[key]; !there {
				want.Extra++
			} else if other != row {
				want.Differing++
				if difference := apart(row.value, other.value); difference.Cmp(largest) > 0 {
					largest, want.Largest = difference, difference.String()
				}
			}
		}
		for key := range logged {
			if _, there := served[key]; !there {
				want.Missing++
			}
		}
		got := prove(rt, db, 1000)
		require.Equal(rt, want.Equal(), got.Equal())
		require.Equal(rt, want.Equal(), got.Hash == got.FreshHash)
		for _, side := range []struct {
			hash string
			rows map[pairKey]pair
		}{{got.Hash, served}, {got.FreshHash, logged}} {
			text := describePairs(side.rows)
			if known, seen := hashes[side.hash]; seen {
				require.Equal(rt, known, text, "one hash, other rows")
			}
			hashes[side.hash] = text
		}
		require.Len(rt, slices.Compact(slices.Sorted(slices.Values(got.First))), len(got.First), "each difference is told once")
		require.GreaterOrEqual(rt, int64(len(got.First)), got.Extra+got.Missing+got.Differing)
		require.Equal(rt, want.Largest == "", got.LargestAt == "")
		got.Hash, got.FreshHash, got.LargestAt, got.First = "", "", "", nil
		require.Equal(rt, want, got)
	})
}

// apart is how far two values are apart that are numbers.
func apart(a, b any) schema.Decimal {
	texts := []any{a, b}
	var numbers []schema.Decimal
	for _, text := range texts {
		if text != nil && text != "" {
			numbers = append(numbers, schema.MustDecimal(text.(string)))
		}
	}
	if len(numbers) < len(texts) {
		return schema.Decimal{}
	}
	if numbers[0].Cmp(numbers[1]) < 0 {
		slices.Reverse(numbers)
	}
	return numbers[0].Sub(numbers[1])
}

func describePairs(rows map[pairKey]pair) string {
	var lines []string
	for key, row := range rows {
		lines = append(lines, fmt.Sprintf("%q %d %#v %q", key.word, key.number, row.value, row.note))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func write(t require.TestingT, db *store.Store, g pipeline.Generation, rows map[pairKey]pair) {
	ctx := context.Background()
	require.NoError(t, db.Write(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM `+g.Table("pairs")); err != nil {
			return err
		}
		inserts := store.Rows{Table: g.Table("pairs"), Columns: []string{"word", "number", "value", "note"}}
		for key, row := range rows {
			inserts.Add(key.word, key.number, row.value, row.note)
		}
		return tx.Insert(ctx, inserts)
	}))
}

func TestAProofTellsTheFirstDifferences(t *testing.T) {
	t.Parallel()
	db := newPair(t, `word {text} NOT NULL, number {int} NOT NULL, value {decimal}, note {text} NOT NULL, PRIMARY KEY (word, number)`)
	long := strings.Repeat("é", 200)
	write(t, db, serving, map[pairKey]pair{{"a", 1}: {"1.5", "x"}, {"b", 2}: {nil, ""}, {"c", 3}: {"3", "same"}, {"d", 4}: {"4", long}})
	write(t, db, filled, map[pairKey]pair{{"a", 1}: {"1.500000000000000001", "x"}, {"b", 10}: {"2", "new\nline"}, {"c", 3}: {"3", "same"}, {"d", 4}: {nil, "short"}})
	proof := prove(t, db, 4)
	require.Len(t, proof.First, 4)
	assert.Equal(t, `pairs word=a number=1: value is 1.5, and by the log 1.500000000000000001`, proof.First[0])
	assert.Equal(t, `pairs word=b number=2 is there, and by the log it is not: word=b number=2 value=NULL note=""`, proof.First[1])
	assert.Equal(t, `pairs word=b number=10 is missing; by the log it is word=b number=10 value=2 note="new\nline"`, proof.First[2])
	assert.Equal(t, `pairs word=d number=4: value is 4, and by the log NULL`, proof.First[3])
	all := prove(t, db, 10).First
	require.Len(t, all, 5)
	assert.Equal(t, `pairs word=d number=4: note is `+strings.Repeat("é", 60)+`… (400 bytes), and by the log short`, all[4])
}

func TestAProofNeedsTablesOfOneKind(t *testing.T) {
	t.Parallel()
	db := newPair(t, `id {int} PRIMARY KEY`)
	require.NoError(t, db.Write(t.Context(), func(tx *store.Tx) error {
		return tx.DDL(t.Context(), `ALTER TABLE pairs ADD COLUMN more {text}`)
	}))
	live, err := db.Snapshot(t.Context())
	require.NoError(t, err)
	defer live.Close()
	_, err = projections.Prove(t.Context(), live, live, "pairs", "", serving, filled, 1)
	require.ErrorContains(t, err, "pairs and pairs_g2 have other columns")
}
