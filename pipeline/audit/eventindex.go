package audit

import (
	"crypto/sha256"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// eventIndex are the events that came through the outbox, each once, by the 128 bits
// of its id. It is safe for concurrent use.
type eventIndex struct {
	mu     sync.Mutex
	events map[eventKey]mark
	// stages numbers those that derived any, from 1.
	stages  map[string]mark
	derived map[string]int64 // how many of each
}

type eventKey [16]byte

// mark is the number of the stage that derived the event, 0 where none did, and
// whether someone has claimed it since.
type mark uint16

const claimed mark = 1 << 15

func newEventIndex() *eventIndex {
	return &eventIndex{events: map[eventKey]mark{}, stages: map[string]mark{}, derived: map[string]int64{}}
}

// keyOf is the id itself where it is a UUID, as all of ours are, or else what a
// hash makes of it.
func keyOf(id string) eventKey {
	if len(id) == 36 {
		if parsed, err := uuid.Parse(id); err == nil {
			return eventKey(parsed)
		}
	}
	sum := sha256.Sum256([]byte(id))
	return eventKey(sum[:16])
}

// String is the id, where it is a UUID.
func (k eventKey) String() string { return uuid.UUID(k).String() }

// add notes an event that stage derived, or no one where it is "". It returns
// false where there is one of this id already.
func (g *eventIndex) add(id, stage string) bool {
	key := keyOf(id)
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, there := g.events[key]; there {
		return false
	}
	number := mark(0)
	if stage != "" {
		if number = g.stages[stage]; number == 0 {
			number = mark(len(g.stages) + 1)
			g.stages[stage] = number
		}
		g.derived[stage]++
	}
	g.events[key] = number
	return true
}

func (g *eventIndex) has(key eventKey) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, there := g.events[key]
	return there
}

// claim reports whether there is an event of this id, derived by stage or by
// no one, and notes that it was asked for.
func (g *eventIndex) claim(id, stage string) bool {
	key := keyOf(id)
	g.mu.Lock()
	defer g.mu.Unlock()
	m, there := g.events[key]
	if !there || m&^claimed != g.stages[stage] {
		return false
	}
	g.events[key] = m | claimed
	return true
}

// gives reports whether the stage derived any event.
func (g *eventIndex) gives(stage string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.derived[stage] > 0
}

// unclaimed are the events that a stage derived and no one asked for.
func (g *eventIndex) unclaimed() map[string][]eventKey {
	g.mu.Lock()
	defer g.mu.Unlock()
	names := map[mark]string{}
	for name, number := range g.stages {
		names[number] = name
	}
	left := map[string][]eventKey{}
	for key, m := range g.events {
		if m != 0 && m&claimed == 0 {
			left[names[m]] = append(left[names[m]], key)
		}
	}
	return left
}

// sourceOf is the source of an event in binary mode.
func sourceOf(headers []schema.Header) string {
	for _, h := range headers {
		if h.Key == "ce_source" {
			return string(h.Value)
		}
	}
	return ""
}

// derivedBy is the stage that derived a record's event; "" where none did.
func derivedBy(source string, derived bool) string {
	if !derived {
		return ""
	}
	return strings.TrimPrefix(source, pipeline.SourcePrefix)
}
