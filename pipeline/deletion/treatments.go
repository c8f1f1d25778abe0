package deletion

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pricemill/pricemill/schema"
)

// Kind is what becomes of a table.
type Kind int

const (
	// Kept: it holds no data of a provider.
	Kept Kind = iota
	// Deleted: rows of the provider are.
	Deleted
	// Cleared: rows stay, without what they hold of the provider's data.
	Cleared
	// Log: records of it are replaced.
	Log
)

// Treatment says what becomes of a table of the migrations.
type Treatment struct {
	Table string
	Kind  Kind
	// Why says so to people.
	Why string
	// where are the rows; nil where they are found otherwise.
	where func(schema.Subject) condition
	// set is what Cleared rows get.
	set string
}

// Treatments are those of all tables that the migrations make, in the order in which they are
// worked on: what is deleted from a table must not depend on those before it.
var Treatments = []Treatment{
	{Table: "api_key_version"},
	{Table: "api_keys"},
	{Table: "backfills", Kind: Cleared, Why: "what was asked for is the user's", where: backfills,
		set: "next_page = '', last_id = '', reached_at = NULL, last_error = ''"},
	{Table: "chains", Why: "numbers stay as they are"},
	{Table: "dead_letters", Kind: Deleted, Why: "those of records that are deleted"},
	{Table: "deletions", Why: "the lasting record"},
	{Table: "failing_jobs", Kind: Deleted, Why: "it quotes answers"},
	{Table: "fetch_budgets", Why: "calls that count against the limits of the provider"},
	{Table: "fetch_queue", Kind: Deleted, where: byColumns},
	{Table: "fetch_refused", Kind: Deleted, where: byColumns},
	{Table: "forgotten_jobs"},
	{Table: "generations"},
	{Table: "instance"},
	{Table: "leases"},
	{Table: "letter_retries", Kind: Cleared, Why: "a reason may quote a record, and does not say whose", where: everyReason, set: "reason = ''"},
	{Table: "log_groups"},
	{Table: "log_segments", Kind: Log},
	{Table: "moves"},
	{Table: "normalized_quotes", Kind: Deleted, where: byKey},
	{Table: "outbox", Why: "empty: the log is in the database"},
	{Table: "positions", Why: "offsets stay as they are"},
	{Table: "provider_definitions", Kind: Deleted, Why: "only with all data of the provider; the service keeps the present one again", where: definitions},
	{Table: "rate_limits"},
	{Table: "rebuilds", Kind: Cleared, Why: "the differences that a comparison found quote rows", where: mentions("proof"), set: "proof = ''"},
	{Table: "renormalizations", Kind: Cleared, Why: "what was asked for is the user's; an error may quote an answer", where: everyError, set: "error = ''"},
	{Table: "retention"},
	{Table: "retired_chains"},
	{Table: "revised_prices", Kind: Deleted, Why: "those of prices that are deleted"},
	{Table: "schedules", Why: "what was asked for is the user's"},
	{Table: "streams", Kind: Cleared, Why: "what was asked for is the user's"},
	{Table: "topics"},
	{Table: "raw_market_data", Kind: Deleted, where: byColumns},
}

// condition is one in SQL, whose arguments are $1 and on; empty where it holds for no row.
type condition struct {
	text string
	args []any
}

// byColumns are the rows of a table with the columns provider and symbol.
func byColumns(s schema.Subject) condition {
	if s.Symbol == "" {
		return condition{"provider = $1", []any{s.Provider}}
	}
	return condition{"provider = $1 AND symbol = $2", []any{s.Provider, s.Symbol}}
}

// backfills are those that remember anything of the data.
func backfills(s schema.Subject) condition {
	c := byColumns(s)
	c.text += " AND (next_page <> '' OR last_id <> '' OR reached_at IS NOT NULL OR last_error <> '')"
	return c
}

// byKey are the rows of a table whose quote_key is schema.MarketKey, which something after a |
// may follow: no symbol holds one.
func byKey(s schema.Subject) condition {
	begins := func(n int) string { return "substr(quote_key, 1, " + strconv.Itoa(n) + ")" }
	if s.Symbol == "" {
		prefix := string(s.Provider) + "/"
		return condition{begins(len(prefix)) + " = $1", []any{prefix}}
	}
	key := schema.MarketKey(s.Provider, s.Symbol)
	return condition{"quote_key = $1 OR " + begins(utf8.RuneCountInString(key)+1) + " = $2", []any{key, key + "|"}}
}

func everyReason(schema.Subject) condition { return condition{"reason <> ''", nil} }

func everyError(schema.Subject) condition { return condition{"error <> ''", nil} }

// mentions are the rows in which a column has the provider's name.
func mentions(column string) func(schema.Subject) condition {
	return func(s schema.Subject) condition {
		return condition{strings.ReplaceAll("replace({c}, $1, '') <> {c}", "{c}", column), []any{string(s.Provider)}}
	}
}

// definitions are those by which only answers of the provider are read.
func definitions(s schema.Subject) condition {
	if s.Symbol != "" {
		return condition{}
	}
	return condition{"version IN (SELECT definition FROM raw_market_data WHERE provider = $1)", []any{s.Provider}}
}
