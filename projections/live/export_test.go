package live

// KeptPrices is how many prices a feed keeps.
const KeptPrices = keptPrices

// Kept is how many prices and values the feeds keep now, and how many feeds there are.
func (h *Hub) Kept() (prices, values, feeds int) {
	for _, f := range h.present() {
		f.mu.Lock()
		prices += len(f.kept)
		for _, m := range f.markets {
			for _, v := range m.views {
				values += len(v.values)
			}
		}
		f.mu.Unlock()
		feeds++
	}
	return prices, values, feeds
}

// ParsePosition and FormatPosition are those of an id.
func ParsePosition(text string, stream uint32, kinds int) (owing bool, log uint32, offsets [][]int64, err error) {
	p, err := parsePosition(text, stream, kinds)
	return p.owing, p.log, p.offsets, err
}

// FormatPosition writes an id.
func FormatPosition(owing bool, stream, log uint32, offsets [][]int64) string {
	return position{owing, log, offsets}.text(stream)
}

// Behind is how many records the stream has to pass yet of those that its feeds have,
// counted for each kind.
func (s *Stream) Behind() (sum int64) {
	for _, p := range s.parts {
		p.feed.mu.Lock()
		for _, cursor := range p.cursors {
			sum += p.feed.next - cursor
		}
		p.feed.mu.Unlock()
	}
	return sum
}
