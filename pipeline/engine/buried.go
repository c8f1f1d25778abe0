package engine

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
)

// buriedEvery is how often a stage says that records became dead letters.
const buriedEvery = time.Minute

// buried counts the records of a stage that became dead letters, and says so: at
// once, and then every buriedEvery while there are more. It is safe for concurrent
// use.
type buried struct {
	log   *slog.Logger
	stage string

	mu     sync.Mutex
	n      int
	reason string // of the first of them
	said   time.Time
}

// add counts records that became dead letters, if there are any.
func (b *buried) add(now time.Time, letters []pipeline.Record) {
	if len(letters) == 0 || strings.HasPrefix(b.stage, store.Scratch) {
		return // those of a scratch stage are told by who fills it
	}
	b.mu.Lock()
	if b.n == 0 {
		b.reason = FirstLine(letters[0].State.Fault.Error())
	}
	b.n += len(letters)
	b.mu.Unlock()
	b.flush(now)
}

// flush says what was counted, unless the stage said something in the last minute.
func (b *buried) flush(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.n > 0 && now.Sub(b.said) >= buriedEvery {
		b.say(now)
	}
}

// end says what was counted and not said yet.
func (b *buried) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.n > 0 {
		b.say(time.Now())
	}
}

func (b *buried) say(now time.Time) {
	b.log.Warn("records became dead letters: see pricemill dead-letters list --stage "+b.stage, "count", b.n, "first_reason", b.reason)
	b.n, b.said = 0, now
}

// maxFirstLine bounds what FirstLine returns, in bytes.
const maxFirstLine = 160

// FirstLine is the first line of a reason, cut where it is long: what fits into a
// table or a line of a log. A panic's reason has the whole stack.
func FirstLine(reason string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(reason), "\n")
	line = strings.ToValidUTF8(line, "\uFFFD")
	if len(line) <= maxFirstLine {
		return line
	}
	cut := maxFirstLine
	for !utf8.RuneStart(line[cut]) {
		cut--
	}
	return line[:cut] + "…"
}

// checkLetters warns of the dead letters of all stages, in whatever process they run.
func (r *Runtime) checkLetters(ctx context.Context) []Check {
	counts, err := store.CountLetters(ctx, r.cfg.Store, store.Letters{})
	if err != nil {
		return nil // the check of the database says so
	}
	if len(counts) == 0 {
		return []Check{check("dead letters", nil)}
	}
	var total int64
	stages := make([]string, len(counts))
	for i, c := range counts {
		total += c.Letters
		stages[i] = fmt.Sprintf("%s %d", c.Stage, c.Letters)
	}
	atLeast := ""
	if total == store.MostCounted {
		atLeast = "at least "
	}
	return []Check{{"dead letters", CheckWarning, fmt.Sprintf("%s%d records were not applied (%s): see pricemill dead-letters list",
		atLeast, total, strings.Join(stages, ", "))}}
}
