package chain

// Missing is how many numbers a gap leaves out.
func Missing(last, next Link, names Timelines) int64 {
	if last.Timeline == next.Timeline {
		return next.Seq - last.Seq - 1
	}
	return next.Seq - 1 + SentBetween(last, next.Timeline, names)
}

// SentBetween is how many numbers were sent after last, and before the timeline
// until; all later ones where it is empty.
func SentBetween(last Link, until string, names Timelines) int64 {
	own, knew := names[last.Timeline]
	n := int64(0)
	if knew && own.Sent != Unlimited {
		n = max(0, own.Sent-last.Seq)
	}
	end, bounded := names[until]
	for _, name := range names {
		if name.Sent != Unlimited && (!knew || name.Order > own.Order) && (!bounded || name.Order < end.Order) {
			n += name.Sent
		}
	}
	return n
}

// NameOrNone is a timeline in words: "none" where there is none.
func NameOrNone(timeline string) string {
	if timeline == "" {
		return "none"
	}
	return timeline
}
