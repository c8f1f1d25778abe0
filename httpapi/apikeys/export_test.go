package apikeys

// For tests.
const (
	MissEvery      = missEvery
	MaxUnconfirmed = maxUnconfirmed
)

// Looks is how many looks into the database there were.
func (r *Ring) Looks() int64 { return r.looks.Load() }
