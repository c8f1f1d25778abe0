package audit

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Finding is what was found of one thing that should hold. Its methods are safe
// for concurrent use.
type Finding struct {
	mu sync.Mutex

	// Name is short and stays the same: projection moving-averages.
	Name string `json:"name"`
	// State follows from the rest.
	State State `json:"state"`
	// Counts are what was looked at, by what it is.
	Counts map[string]int64 `json:"counts"`
	// Found is how many differences there are; Differences are the first of them,
	// in words.
	Found       int64    `json:"found"`
	Differences []string `json:"differences,omitempty"`
	// Lost and Doubled are how many effects are missing, and how many are there
	// that should not be.
	Lost    int64 `json:"lost"`
	Doubled int64 `json:"doubled"`
	// Unproven says why it cannot be told whether it holds.
	Unproven []string `json:"unproven,omitempty"`
	// Limits say what was not looked at, since no one could.
	Limits []string `json:"limits,omitempty"`
	// Tables are the proofs of a projection's tables.
	Tables any `json:"tables,omitempty"`

	most int
}

// State is what a Finding comes to.
type State string

// The states of a Finding.
const (
	Holds    State = "ok"
	Differs  State = "different"
	Unproven State = "unproven"
)

// NewFinding begins a finding that shows most of its differences.
func NewFinding(name string, most int) *Finding {
	return &Finding{Name: name, State: Holds, Counts: map[string]int64{}, most: most}
}

// Count counts what was looked at.
func (f *Finding) Count(what string, n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Counts[what] += n
}

// Differ notes one difference.
func (f *Finding) Differ(format string, args ...any) { f.Add(1, 0, 0, fmt.Sprintf(format, args...)) }

// Missing notes an effect that is missing.
func (f *Finding) Missing(format string, args ...any) { f.Add(1, 1, 0, fmt.Sprintf(format, args...)) }

// Duplicate notes an effect that is there once too often.
func (f *Finding) Duplicate(format string, args ...any) { f.Add(1, 0, 1, fmt.Sprintf(format, args...)) }

// Add notes differences, with words for the first of them.
func (f *Finding) Add(found, lost, doubled int64, words ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Found += found
	f.Lost += lost
	f.Doubled += doubled
	room := max(0, f.most-len(f.Differences))
	f.Differences = append(f.Differences, words[:min(room, len(words))]...)
	f.settle()
}

// NotChecked says what was not looked at, once.
func (f *Finding) NotChecked(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Limits = once(f.Limits, fmt.Sprintf(format, args...))
}

// Inconclusive says why it cannot be told whether it holds.
func (f *Finding) Inconclusive(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Unproven = once(f.Unproven, fmt.Sprintf(format, args...))
	f.settle()
}

func once(sentences []string, sentence string) []string {
	if slices.Contains(sentences, sentence) {
		return sentences
	}
	return append(sentences, sentence)
}

func (f *Finding) settle() {
	switch {
	case len(f.Unproven) > 0:
		f.State = Unproven
	case f.Found > 0:
		f.State = Differs
	default:
		f.State = Holds
	}
}

// Counted is what was looked at, in words.
func (f *Finding) Counted() string {
	parts := make([]string, 0, len(f.Counts))
	for _, what := range slices.Sorted(maps.Keys(f.Counts)) {
		parts = append(parts, fmt.Sprintf("%d %s", f.Counts[what], what))
	}
	return strings.Join(parts, ", ")
}
