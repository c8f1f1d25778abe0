package chain

// A stray record has the name of one of this database's chains, and a number out of
// order: the numbers before it are still to come. The database did not write it, or
// wrote it again later. A stage that moved to its number would drop all numbers in
// between as repeats, so it skips the record and stays where it is.

// Skip is where a stage continues that is at l and is told to skip what the
// chain shows before the record at next.
func (l Link) Skip(next Link, what Verdict, names Timelines) (to Link, stray bool) {
	before := Link{Timeline: next.Timeline, Seq: next.Seq - 1}
	switch {
	case what != Foreign:
		return before.In(AnyNext), false
	case l.strays(next, names):
		return l, true
	}
	return before.In(Superseded), false
}

// strays reports whether a foreign record has a name of this database, but is not
// where a later state of the database continued that name: right after the last
// number of a name that is retired.
func (l Link) strays(next Link, names Timelines) bool {
	name, known := names[next.Timeline]
	before, knew := names[l.Timeline]
	switch {
	case !known:
		return false
	case name.Sent == Unlimited, knew && name.Order < before.Order:
		return true
	case next.Timeline != l.Timeline:
		return next.Seq != 1
	}
	return next.Seq != l.Seq+1
}
