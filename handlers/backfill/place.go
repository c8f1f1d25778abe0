package backfill

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/pricemill/pricemill/schema"
)

// place is where a backfill is, as the column next_page has it.
type place struct {
	// Definition is the version of the provider's definition that gave the cursor; empty
	// where the provider has none.
	Definition string `json:"definition"`
	// From is where the backfill began again because of another definition.
	From   schema.Time `json:"from,omitzero"`
	Cursor string      `json:"cursor"`
}

// placeMark begins the text of a place that is more than a cursor.
const placeMark = `{"definition":`

// parsePlace reads the column next_page: a place, or a cursor alone.
func parsePlace(text string) (place, error) {
	if !strings.HasPrefix(text, placeMark) {
		return place{Cursor: text}, nil
	}
	var p place
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return p, fmt.Errorf("reading where a backfill is: %w", err)
	}
	return p, nil
}

func (p place) text() (string, error) {
	if p.Definition == "" || p.Cursor == "" {
		return p.Cursor, nil
	}
	text, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("writing where a backfill is: %w", err)
	}
	return string(text), nil
}

// place is where to ask by this version of the provider's definition. A cursor is only good for
// the definition that gave it: by another one the backfill begins again at the time that it has
// reached.
func (j *job) place(version string) (place, error) {
	at, err := parsePlace(j.NextPage)
	if err != nil || at.Definition == version || at.Definition == "" {
		at.Definition = version
		return at, err
	}
	at = place{Definition: version, From: j.From}
	if j.Reached != nil && j.Reached.After(j.From) {
		at.From = *j.Reached
	}
	j.log.Info("a backfill begins again where it was, by another definition of its provider", "backfill_id", j.ID,
		"provider", j.Provider, "definition", version, "from", at.From)
	return at, nil
}
