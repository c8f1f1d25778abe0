package shrink

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pricemill/pricemill/schema"
)

// mostLines is how many lines of a result are shown at the most.
const mostLines = 20

// Text says what a case and its result are, for people. wanted says where the lines of
// Result.Want come from.
func Text(c Case, r Result, wanted string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "the smallest log that shows it, of %s:\n", counted(len(c.Events), "event"))
	for i, e := range c.Events {
		fmt.Fprintf(&b, "  %d  %s\n", i+1, e.text())
	}
	b.WriteString("delivered as:\n")
	if c.Batches == nil {
		b.WriteString("  one batch\n")
	}
	for _, batch := range c.Batches {
		fmt.Fprintf(&b, "  %s\n", batch.text())
	}
	if r.Err != nil {
		fmt.Fprintf(&b, "it fails: %v", r.Err)
		return b.String()
	}
	missing, extra := without(r.Want, r.Got), without(r.Got, r.Want)
	fmt.Fprintf(&b, "wanted, %s:\n%sgot:\n%s", wanted, lines("- ", missing), lines("+ ", extra))
	switch same := len(r.Want) - len(missing); {
	case len(missing) == 0 && len(extra) == 0:
		b.WriteString("the same lines in another order")
	case same > 0:
		fmt.Fprintf(&b, "%s as wanted", counted(same, "other line"))
	}
	return strings.TrimSpace(b.String())
}

func counted(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

func (e Event) text() string {
	if e.Spoilt {
		return "a record that cannot be decoded"
	}
	p, isPrice := e.Payload.(schema.PriceObserved)
	if !isPrice {
		_, value, err := schema.Event{ID: "1", Source: "1", Payload: e.Payload}.Encode()
		if err != nil {
			return fmt.Sprintf("%s %+v", e.Payload.EventType(), e.Payload)
		}
		return fmt.Sprintf("%s %s", e.Payload.EventType(), value)
	}
	text := fmt.Sprintf("%s  price %s at %s", p.Key(), p.Price, p.Timestamp.Format(time.RFC3339Nano))
	if !p.Size.IsZero() {
		text += fmt.Sprintf(", size %s", p.Size)
	}
	if p.Sequence != 0 {
		text += fmt.Sprintf(", sequence %d", p.Sequence)
	}
	return text
}

func (b Batch) text() string {
	numbers := make([]string, len(b.Events))
	for i, e := range b.Events {
		numbers[i] = fmt.Sprint(e + 1)
	}
	text := strings.Join(numbers, " ")
	if b.Undo > 0 {
		text += fmt.Sprintf(", rolled back %s and tried again", counted(b.Undo, "time"))
	}
	switch {
	case b.Process:
		text = "in another process: " + text
	case b.Session:
		text = "in another session: " + text
	}
	return text
}

// without is those of the lines that are not among others, each as often as it is there
// more often.
func without(all, others []string) []string {
	left := map[string]int{}
	for _, line := range others {
		left[line]++
	}
	return slices.DeleteFunc(slices.Clone(all), func(line string) bool {
		left[line]--
		return left[line] >= 0
	})
}

func lines(mark string, all []string) string {
	if len(all) == 0 {
		return "  none\n"
	}
	var b strings.Builder
	for _, line := range all[:min(len(all), mostLines)] {
		b.WriteString(mark + line + "\n")
	}
	if more := len(all) - mostLines; more > 0 {
		fmt.Fprintf(&b, "  and %d more\n", more)
	}
	return b.String()
}
