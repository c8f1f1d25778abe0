package move

import "slices"

// Treatment says what becomes of a table of the migrations.
type Treatment struct {
	Table string
	Kind  Kind
	// Why says so to people, where the table does not come along as it is.
	Why string
}

// Kind is what becomes of a table.
type Kind int

const (
	// Copied: all of its rows come along.
	Copied Kind = iota
	// Chosen: the rows of what comes along do: of the stages, and of the generations that
	// serve.
	Chosen
	// Log: it is copied where the log stays a table, and otherwise its records are.
	Log
	// Fresh: the target has its own.
	Fresh
	// Empty: it has no rows in an installation that can be moved.
	Empty
)

// Treatments are those of all tables that the migrations make.
var Treatments = []Treatment{
	{"api_key_version", Fresh, "the target counts the changes of its own"},
	{"api_keys", Copied, ""},
	{"backfills", Copied, ""},
	{"chains", Copied, "with their timelines and numbers"},
	{"dead_letters", Chosen, "those of generations that do not serve stay"},
	{"deletions", Copied, "the records of the log name them"},
	{"failing_jobs", Copied, ""},
	{"fetch_budgets", Copied, ""},
	{"fetch_queue", Copied, "requests that have no outcome yet are fetched, or time out, at the target"},
	{"fetch_refused", Copied, ""},
	{"forgotten_jobs", Copied, ""},
	{"generations", Chosen, "those that do not serve stay, and can be rebuilt"},
	{"instance", Fresh, "the id of the database"},
	{"leases", Fresh, "no process works"},
	{"letter_retries", Copied, ""},
	{"log_groups", Log, "Kafka keeps the offsets of consumers itself: yours begin where they are told to"},
	{"log_segments", Log, ""},
	{"moves", Fresh, "the move that filled the database"},
	{"normalized_quotes", Copied, ""},
	{"outbox", Empty, "the log is in the database"},
	{"positions", Chosen, "those of generations that do not serve stay"},
	{"provider_definitions", Copied, "answers are read by them"},
	{"rate_limits", Fresh, "a minute of requests"},
	{"raw_market_data", Copied, ""},
	{"rebuilds", Chosen, "those of generations that stay are cancelled"},
	{"renormalizations", Copied, "those that are being built have failed"},
	{"retention", Copied, "rebuilt rows from before it are deleted again"},
	{"retired_chains", Copied, ""},
	{"revised_prices", Copied, ""},
	{"schedules", Copied, ""},
	{"streams", Copied, ""},
	{"topics", Copied, "with their epochs; in Kafka they get other ids, and remember theirs"},
}

// versionTable is the migrations' own.
const versionTable = "goose_db_version"

// treatmentOf is the treatment of a table of the migrations.
func treatmentOf(table string) (Treatment, bool) {
	at := slices.IndexFunc(Treatments, func(t Treatment) bool { return t.Table == table })
	if at < 0 {
		return Treatment{}, false
	}
	return Treatments[at], true
}

// withoutState are tables whose rows say nothing that others do not say too: they grow with
// the log, and only with it.
var withoutState = []string{"log_segments", "raw_market_data"}
