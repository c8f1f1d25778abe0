package chain

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

func TestFollow(t *testing.T) {
	t.Parallel()
	a, b, c, x := func(n int64) Link { return Link{Timeline: "a", Seq: n} }, func(n int64) Link { return Link{Timeline: "b", Seq: n} },
		func(n int64) Link { return Link{Timeline: "c", Seq: n} }, func(n int64) Link { return Link{Timeline: "x", Seq: n} }
	// b was sent up to 9, and 10 and 11 continued under c, which is in use; so is a,
	// on its own; x no one knows.
	names := Timelines{"b": {0, 9, 11}, "c": {1, Unlimited, Unlimited}, "a": {2, Unlimited, Unlimited}}
	for name, test := range map[string]struct {
		last, next Link
		derived    bool
		want       Verdict
	}{
		"the first of all":                      {Link{}, a(1), false, Apply},
		"the head of the log is gone":           {Link{}, a(2), false, Gap},
		"the next one":                          {a(7), a(8), false, Apply},
		"the next one, derived":                 {a(7), a(8), true, Apply},
		"the same again":                        {a(7), a(7), false, Repeat},
		"an earlier one again":                  {a(7), a(1), false, Repeat},
		"one is missing":                        {a(7), a(9), false, Gap},
		"from elsewhere, first":                 {Link{}, Link{}, false, Apply},
		"from elsewhere, later":                 {a(7), Link{}, false, Apply},
		"the next name, after all of the last":  {b(9), c(1), false, Apply},
		"the next name, in mid-way":             {b(9), c(8), false, Gap},
		"the next name, too early":              {b(8), c(1), false, Gap},
		"the next name, the former in use":      {c(4), a(1), false, Apply},
		"a late batch of the former name":       {c(4), b(8), false, Repeat},
		"and what is there under the next name": {c(4), b(11), false, Repeat},
		"of the former name, never given":       {c(4), b(12), false, Foreign},
		"a former name, after its end":          {b(11), b(12), false, Foreign},
		"an unknown name":                       {a(7), x(8), false, Foreign},
		"an unknown name, first of all":         {Link{}, x(1), false, Foreign},

		"accepted: a gap":                  {a(7).In(AnyNext), a(12), false, Apply},
		"accepted: again":                  {a(7).In(AnyNext), a(6), false, Repeat},
		"accepted: another name":           {b(7).In(AnyNext), c(5), false, Apply},
		"accepted: an unknown name":        {x(11).In(AnyNext), x(12), false, Apply},
		"accepted, and it continues":       {x(12), x(13), false, Apply},
		"accepted, and it continues wrong": {x(12), x(15), false, Gap},
		"accepted after the end":           {b(12), b(13), false, Apply},
		"accepted, one is missing after":   {b(12), b(14), false, Foreign},
		"accepted, then a former name":     {x(20), b(21), false, Foreign},
		"accepted, first of all":           {Link{}.In(AnyNext), a(5), false, Apply},

		"superseded: derived":             {x(4).In(Superseded), x(5), true, StepOver},
		"superseded: not derived":         {x(4).In(Superseded), x(5), false, Apply},
		"superseded: again":               {x(4).In(Superseded), x(4), false, Repeat},
		"superseded: one is missing":      {x(4).In(Superseded), x(6), true, Gap},
		"superseded: ours continues":      {x(4).In(Superseded), a(1), true, Apply},
		"superseded: ours, in mid-way":    {x(4).In(Superseded), a(2), true, Gap},
		"superseded: yet another":         {x(4).In(Superseded), Link{Timeline: "y", Seq: 1}, true, Foreign},
		"superseded former name":          {b(11).In(Superseded), b(12), true, StepOver},
		"superseded former name, then on": {b(15).In(Superseded), c(1), true, Apply},
	} {
		assert.Equal(t, test.want, test.last.Follow(test.next, test.derived, names), name)
	}
	assert.Equal(t, a(7), a(7).Advance(Link{}), "a record from elsewhere does not end the chain")
	assert.Equal(t, b(1), a(7).Advance(b(1)))
	assert.Equal(t, x(5).In(Superseded), x(4).In(Superseded).Advance(x(5)))
	assert.Equal(t, a(1), x(4).In(Superseded).Advance(a(1)), "another timeline is followed in order")
	assert.Equal(t, a(5), a(4).Advance(a(5)))
	assert.Equal(t, a(5), a(3).In(AnyNext).Advance(a(5)), "from there on in order")
	assert.Equal(t, a(1), x(4).In(Superseded).Advance(a(1)))
	assert.Equal(t, a(4), Link{}.In(AnyNext).Advance(a(4)))

	// The name in use, limited by what the database has given.
	limited := Timelines{"a": {0, Unlimited, 4}}
	assert.Equal(t, Apply, a(3).Follow(a(4), false, limited))
	assert.Equal(t, Foreign, a(4).Follow(a(5), false, limited), "the database was set back")
}

func TestLinkOf(t *testing.T) {
	t.Parallel()
	link, derived, err := LinkOf(append([]schema.Header{{Key: "ce_id", Value: []byte("1")}}, Link{Timeline: "a", Seq: 12}.Headers()...))
	require.NoError(t, err)
	assert.Equal(t, Link{Timeline: "a", Seq: 12}, link)
	assert.False(t, derived)
	_, derived, err = LinkOf(append(Link{Timeline: "a", Seq: 12}.Headers(), schema.Header{Key: HeaderDerived, Value: []byte("true")}))
	require.NoError(t, err)
	assert.True(t, derived)
	link, _, err = LinkOf(Link{Timeline: "a", Seq: 1}.Headers())
	require.NoError(t, err)
	assert.Equal(t, Link{Timeline: "a", Seq: 1}, link, "the first of a timeline")
	link, derived, err = LinkOf([]schema.Header{{Key: HeaderDerived, Value: []byte("true")}})
	require.NoError(t, err)
	assert.Equal(t, Link{}, link)
	assert.False(t, derived, "what has no place in a chain is not derived either")
	for name, headers := range map[string][]schema.Header{
		"no outbox":    {{Key: HeaderNumber, Value: []byte("1")}},
		"no number":    {{Key: HeaderTimeline, Value: []byte("a")}},
		"zero":         {{Key: HeaderTimeline, Value: []byte("a")}, {Key: HeaderNumber, Value: []byte("0")}},
		"too large":    {{Key: HeaderTimeline, Value: []byte("a")}, {Key: HeaderNumber, Value: []byte("9223372036854775808")}},
		"not a number": {{Key: HeaderTimeline, Value: []byte("a")}, {Key: HeaderNumber, Value: []byte("x")}},
	} {
		link, derived, err := LinkOf(append(headers, schema.Header{Key: HeaderDerived, Value: []byte("true")}))
		assert.ErrorIs(t, err, schema.ErrEnvelope, name)
		assert.Equal(t, Link{}, link, name)
		assert.False(t, derived, name)
	}
}

func TestDirectHeaders(t *testing.T) {
	t.Parallel()
	id, trace := schema.Header{Key: "ce_id", Value: []byte("1")}, schema.Header{Key: "traceparent", Value: []byte("00")}
	mark := schema.Header{Key: HeaderDirect, Value: []byte("true")}
	place := Link{Timeline: "a", Seq: 12}.Headers()
	for name, headers := range map[string][]schema.Header{
		"from elsewhere":                 {id, trace},
		"with a place in another log":    {id, place[0], trace, place[1]},
		"marked already":                 {mark, id, trace},
		"marked with another value":      {id, trace, {Key: HeaderDirect, Value: []byte("false")}},
		"marked, with a place, and more": {place[1], id, mark, place[0], trace},
	} {
		direct := DirectHeaders(headers)
		assert.Equal(t, []schema.Header{id, trace, mark}, direct, name)
		assert.True(t, IsDirect(direct), name)
	}
	assert.Equal(t, []schema.Header{mark}, DirectHeaders(nil))
	assert.False(t, IsDirect(append(place, id)))
	assert.False(t, IsDirect(nil))
}

// The model below is the protocol of outbox, relay, log and consumer, without
// their implementations: one partition, any number of relays at once, each of
// which may be stopped, crash, or have its answers lost or delayed at any point.
// It shows that what the consumer applies is 1 2 3 …, each once.

// modelRelay is what one relay knows. Its batch in flight may reach the log any
// time after it was handed to the sender, even after the relay is gone.
type modelRelay struct {
	from, to int64 // the batch: numbers from+1 … to
	state    string
	// met says that it has looked at the database, which then said noted; sent is what
	// was acknowledged since.
	met         bool
	noted, sent int64
	handed      map[int64]bool // numbers that its process is known to have committed
}

type model struct {
	random *rand.Rand
	// The database: numbers committed, and the highest known to be sent.
	committed, sent int64
	deleted         int64
	log             []int64
	relays          [2]modelRelay
	late            []modelRelay
	// The consumer: applied is committed with its position.
	position int
	last     Link
	applied  []int64
}

// modelNames: the database knows of one name, which is in use.
var modelNames = Timelines{"o": {0, Unlimited, Unlimited}}

// step does one random thing.
func (m *model) step(t *testing.T) {
	switch m.random.IntN(10) {
	case 0: // a stage commits some events
		m.commit()
	case 1, 2, 3:
		m.relayStep(t, &m.relays[m.random.IntN(len(m.relays))])
	case 4: // a relay crashes: what it had in flight may arrive later, or never
		r := &m.relays[m.random.IntN(len(m.relays))]
		if r.state == "sending" {
			m.late = append(m.late, *r)
		}
		*r = modelRelay{}
	case 5: // a batch of a relay that is gone arrives
		if len(m.late) > 0 {
			i := m.random.IntN(len(m.late))
			m.appendBatch(m.late[i])
			m.late = slices.Delete(m.late, i, i+1)
		}
	default:
		m.consume(t)
	}
}

func (m *model) relayStep(t *testing.T, r *modelRelay) {
	switch r.state {
	case "":
		switch m.random.IntN(3) {
		case 0: // moves the mark by compare-and-swap, and deletes
			m.note(r)
		case 1: // sends what was handed over, where it follows
			if r.met && r.handed[r.sent+1] {
				r.from, r.to = r.sent, r.sent
				for most := r.sent + 1 + m.random.Int64N(4); r.to < most && r.handed[r.to+1]; {
					r.to++
				}
				r.state = "sending"
			}
		default: // looks at the database
			if !r.met {
				r.met, r.sent = true, m.sent
			}
			r.noted, r.sent = m.sent, max(r.sent, m.sent)
			if m.committed > r.sent {
				require.LessOrEqual(t, m.deleted, r.sent, "rows that were not sent are there")
				r.from, r.to = r.sent, min(m.committed, r.sent+1+m.random.Int64N(4))
				r.state = "sending"
			}
		}
	case "sending":
		switch m.random.IntN(3) {
		case 0: // it arrives, and the answer too
			m.appendBatch(*r)
			r.sent = r.to
		case 1: // it arrives, the answer is lost: it will be sent again
			m.appendBatch(*r)
		case 2: // it does not arrive: it will be sent again
		}
		r.state = ""
	}
}

// note moves the mark; where another relay did meanwhile, this one knows nothing more.
func (m *model) note(r *modelRelay) {
	switch {
	case !r.met || r.sent == r.noted:
	case m.sent == r.noted:
		m.sent, m.deleted, r.noted = r.sent, r.sent, r.sent
	default:
		*r = modelRelay{}
	}
}

// commit commits some events. The relay of that process is told, unless the answer is lost
// or it forgets; another process has none.
func (m *model) commit() {
	n := 1 + m.random.Int64N(3)
	if to := m.random.IntN(len(m.relays) + 1); to < len(m.relays) {
		r := &m.relays[to]
		if r.handed == nil {
			r.handed = map[int64]bool{}
		}
		for i := range n {
			r.handed[m.committed+1+i] = true
		}
	}
	m.committed += n
}

func (m *model) appendBatch(r modelRelay) {
	for n := r.from + 1; n <= r.to; n++ {
		m.log = append(m.log, n)
	}
}

func (m *model) consume(t *testing.T) {
	if m.position == len(m.log) {
		return
	}
	next := Link{Timeline: "o", Seq: m.log[m.position]}
	if m.random.IntN(5) == 0 {
		return // the transaction fails: nothing moved
	}
	switch m.last.Follow(next, false, modelNames) {
	case Apply:
		m.applied = append(m.applied, next.Seq)
		m.last = m.last.Advance(next)
	case Gap:
		require.Failf(t, "gap", "log %v, position %d", m.log, m.position)
	}
	m.position++
}

// drain finishes without further faults.
func (m *model) drain(t *testing.T) {
	for m.sent < m.committed {
		r := modelRelay{from: m.sent, to: m.committed}
		m.appendBatch(r)
		m.sent = r.to
	}
	for m.position < len(m.log) {
		m.consume(t)
	}
}

func TestModelOfChainAndRelay(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	schedules := 20_000
	for i := range schedules {
		m := &model{random: rand.New(rand.NewPCG(seed, uint64(i)))}
		for range 60 {
			m.step(t)
		}
		m.drain(t)
		if int64(len(m.applied)) != m.committed {
			require.Failf(t, "lost or doubled", "schedule %d: committed %d, applied %v", i, m.committed, m.applied)
		}
		for n, got := range m.applied {
			require.Equal(t, int64(n+1), got, "schedule %d", i)
		}
	}
}

// The rule must notice what the log loses: drop any one record of a log without
// repeats, and the consumer halts exactly there.
func TestModelNoticesLoss(t *testing.T) {
	t.Parallel()
	const n = 12
	for lost := int64(1); lost < n; lost++ {
		t.Run(fmt.Sprint(lost), func(t *testing.T) {
			t.Parallel()
			var last Link
			for seq := int64(1); seq <= n; seq++ {
				if seq == lost {
					continue
				}
				next := Link{Timeline: "o", Seq: seq}
				if seq == lost+1 {
					assert.Equal(t, Gap, last.Follow(next, false, modelNames))
					return
				}
				require.Equal(t, Apply, last.Follow(next, false, modelNames))
				last = last.Advance(next)
			}
		})
	}
}
