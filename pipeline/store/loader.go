package store

import (
	"context"
	"database/sql"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Loader answers questions of one kind, each for one key. As many statements as
// it is made for are under way at the same time; further questions are asked
// together by the next ones, so that many at once cost few statements, and
// one alone does not wait. None is answered by a statement that began before it
// was asked: anyone who asks sees what was committed by then. For use by many
// goroutines.
type Loader[K comparable, V any] struct {
	// read answers for the keys that have an answer. Its context is done when
	// no one waits any more.
	read  func(ctx context.Context, keys []K) (map[K]V, error)
	bound int

	mu       sync.Mutex
	underway int
	queue    []*load[K, V] // those that have not begun
}

// maxLoad is how many questions a statement has at the most. It is a power of
// two, as all their numbers are, so that there are few texts to keep prepared.
const maxLoad = 8

// load is one statement, and those who wait for it.
type load[K comparable, V any] struct {
	ctx    context.Context
	cancel context.CancelFunc
	// waiters are those who have not left.
	keys    []K
	waiters int
	done    chan struct{}
	// Set before done is closed.
	answers map[K]V
	err     error
}

// NewLoader returns a loader that has at most bound statements under way; 0 asks
// each question at once, alone. Keys must be such that the database takes each of
// them: a statement that fails for one fails for all that are asked with it. read
// gets them in numbers that are powers of two, so maybe some twice.
func NewLoader[K comparable, V any](bound int, read func(ctx context.Context, keys []K) (map[K]V, error)) *Loader[K, V] {
	return &Loader[K, V]{read: read, bound: bound}
}

// Load returns the answer for key, or sql.ErrNoRows where there is none.
func (l *Loader[K, V]) Load(ctx context.Context, key K) (V, error) {
	var none V
	if l.bound == 0 {
		answers, err := l.read(ctx, []K{key})
		return pick(answers, key, err)
	}
	asked := l.join(ctx, key)
	select {
	case <-asked.done:
		return pick(asked.answers, key, asked.err)
	case <-ctx.Done():
		l.leave(asked)
		return none, ctx.Err()
	}
}

func pick[K comparable, V any](answers map[K]V, key K, err error) (V, error) {
	answer, ok := answers[key]
	if err == nil && !ok {
		err = sql.ErrNoRows
	}
	return answer, err
}

func (l *Loader[K, V]) join(ctx context.Context, key K) *load[K, V] {
	l.mu.Lock()
	defer l.mu.Unlock()
	var asked *load[K, V]
	n := len(l.queue)
	again := n > 0 && slices.Contains(l.queue[n-1].keys, key)
	if again || n > 0 && len(l.queue[n-1].keys) < maxLoad {
		asked = l.queue[n-1]
	} else {
		asked = &load[K, V]{done: make(chan struct{})}
		// It may outlive the one who came first.
		asked.ctx, asked.cancel = context.WithCancel(context.WithoutCancel(ctx))
		l.queue = append(l.queue, asked)
	}
	if !again {
		asked.keys = append(asked.keys, key)
	}
	asked.waiters++
	if l.underway < l.bound {
		l.underway++
		go l.work()
	}
	return asked
}

// leave ends a statement that no one waits for; one that has not begun is not
// asked at all.
func (l *Loader[K, V]) leave(asked *load[K, V]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if asked.waiters--; asked.waiters == 0 {
		asked.cancel()
		l.queue = slices.DeleteFunc(l.queue, func(other *load[K, V]) bool { return other == asked })
	}
}

// work asks one statement after the other while questions wait.
func (l *Loader[K, V]) work() {
	for {
		// Those who are about to ask do so first, where the processors are busy.
		runtime.Gosched()
		l.mu.Lock()
		if len(l.queue) == 0 {
			l.underway--
			l.mu.Unlock()
			return
		}
		asked := l.queue[0]
		l.queue = l.queue[1:]
		l.mu.Unlock()
		asked.answers, asked.err = l.read(asked.ctx, Padded(asked.keys))
		asked.cancel()
		close(asked.done)
	}
}

// Padded repeats the last key until their number is a power of two, so that a database
// meets few statements of ForEach. The keys given stay as they are.
func Padded[K any](keys []K) []K {
	keys = slices.Clip(keys)
	for len(keys)&(len(keys)-1) != 0 {
		keys = append(keys, keys[len(keys)-1])
	}
	return keys
}

// ForEach is the statement that asks query n times, and returns the rows of all.
// The query has a ? for each parameter, and no other; those of one time come
// after those of the time before. Written out, each part is planned as it would
// be alone, by either database and whatever it knows of its tables.
func ForEach(query string, n int) string {
	parts := strings.Split(query, "?")
	var b strings.Builder
	parameter := 0
	for i := range n {
		if i > 0 {
			b.WriteString(" UNION ALL ")
		}
		// In parentheses, since it may have an ORDER BY and a LIMIT.
		b.WriteString("SELECT * FROM (")
		for j, part := range parts {
			if j > 0 {
				parameter++
				b.WriteString("$" + strconv.Itoa(parameter))
			}
			b.WriteString(part)
		}
		b.WriteString(") AS asked")
	}
	return b.String()
}
