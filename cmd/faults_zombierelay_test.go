package cmd_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// TestFaultsZombieRelay stops the process that holds the relay's lease with
// SIGSTOP, waits until another one has it and has continued, and lets the first continue
// as well. By turns that is when the log has something that the database does not
// know to be there yet, which its successor sends again; and when there is something
// to be sent of which the log has nothing, which a relay that has read it sends
// when it wakes up.
func TestFaultsZombieRelay(t *testing.T) {
	s := newScenario(t, "the relay stopped before and after it sends, replaced, woken up", servicesStack)
	cycles := pick(s, 2, 10)
	c := newFleet(s, nil)
	c.add("handlers,projections", "worker", nil)
	for _, name := range []string{"relay-1", "relay-2"} {
		// The owner's name in the lease begins with it.
		c.add("relay", name, environment{"KAFKA_INSTANCE_ID": name})
	}
	c.addServer("api")
	c.mayRefuse()
	// A relay that was stopped while it notes what is sent holds the numbers of
	// the chains, and a command needs one.
	c.clients.refusable = true
	c.begin(c.workers...)
	z := zombies{fleet: c, kinds: map[string][]time.Duration{}}
	var tenures []tenure
	for n := range cycles {
		c.awaitLoad()
		tenures = append(tenures, z.replaceRelay(n%2 == 0))
	}
	c.end()
	again, late := c.repeats(tenures)
	t.Logf("%d records were sent again by the next relay, and %d late by one that woke up; of the notes in which a relay was stopped %d were undone and %d committed%s",
		again, late, z.undone, z.committed, summary(z.kinds))
}

// tenure is where the logs ended when a relay was stopped, and when it woke up.
type tenure struct {
	stopped, awake map[pipeline.TopicPartition]int64
}

// replaceRelay stops the relay, and wakes it when another one has continued: having
// sent what is not noted, or else with something to be sent of which nothing is.
func (z *zombies) replaceRelay(sent bool) tenure {
	z.t.Helper()
	relay, open, stopped := z.freezeRelay(sent)
	stood := z.standing()
	var of tenure
	of.stopped = z.ends()
	waited := func() {}
	if len(open) > 0 {
		waited = z.watchWaiting(open, stopped)
	}
	require.Eventually(z.t, func() bool { return z.relay() != nil && z.relay() != relay }, time.Minute, 5*time.Millisecond, "another one has the lease")
	z.kinds[untilLease] = append(z.kinds[untilLease], time.Since(stopped))
	z.awaitMoves(stood)
	z.noteMoves(stopped)
	waited()
	of.awake = z.ends()
	relay.thaw()
	// Until it has looked whose the lease is: after whatever it still sent.
	z.awaitMoves(z.standing())
	for _, o := range open {
		z.count(o)
	}
	return of
}

const untilLease = "from the stop until another one had the lease"

// relay is the process that holds the lease; nil while no one does.
func (c *fleet) relay() *worker {
	c.t.Helper()
	var owners []string
	require.NoError(c.t, c.look.db.Select(c.t.Context(), &owners,
		`SELECT owner FROM leases WHERE name = 'relay' AND expires_ms > `+c.look.db.NowMillis()))
	for _, w := range c.workers {
		if len(owners) == 1 && strings.HasPrefix(owners[0], w.env["KAFKA_INSTANCE_ID"]+"/") {
			return w
		}
	}
	return nil
}

// freezeRelay stops the process that relays, having sent what is not noted, or else
// with something to be sent of which nothing is. It returns the transaction that
// was to note it, if one was begun.
func (c *fleet) freezeRelay(sent bool) (*worker, []openTransaction, time.Time) {
	c.t.Helper()
	deadline := time.Now().Add(stallLimit)
	for tries := 1; ; tries++ {
		require.True(c.t, time.Now().Before(deadline), "no relay is ever found as it should be")
		w := c.relay()
		if w == nil {
			pause(10 * time.Millisecond)
			continue
		}
		w.freeze()
		stopped := time.Now()
		open := c.openTransactions(w, "chains")
		waiting, unnoted := c.unsent()
		if sent && unnoted > 0 || !sent && waiting > 0 && unnoted == 0 && len(open) == 0 {
			c.t.Logf("%s stopped at the %d. try, with %d events to be sent and %d sent that are not noted, in %d transactions",
				w.name, tries, waiting, unnoted, len(open))
			return w, open, stopped
		}
		w.thaw()
		pause(time.Duration(1+c.random.IntN(20)) * time.Millisecond)
	}
}

// unsent counts the events that wait in the outbox, and those of them that are in
// the log.
func (c *fleet) unsent() (waiting, unnoted int64) {
	c.t.Helper()
	topics, err := c.look.db.Topics(c.t.Context())
	require.NoError(c.t, err)
	chains, err := store.Chains(c.t.Context(), c.look.db)
	require.NoError(c.t, err)
	ends := c.ends()
	for _, chain := range chains {
		for _, topic := range topics {
			tp := pipeline.TopicPartition{Topic: schema.Topic(topic.Name), Partition: chain.Part}
			end, looked := ends[tp]
			if topic.Epoch != chain.Epoch || !looked || chain.Sent == chain.Last {
				continue
			}
			waiting += chain.Last - chain.Sent
			c.readNumbers(tp, max(0, end-1), end, func(_ int64, number int64) { unnoted += max(0, number-chain.Sent) })
		}
	}
	return waiting, unnoted
}

// ends are those of the topics that have only what the relay sends.
func (c *fleet) ends() map[pipeline.TopicPartition]int64 {
	c.t.Helper()
	ends := map[pipeline.TopicPartition]int64{}
	for _, topic := range chainTopics[1:] {
		ranges, err := c.look.broker.Offsets(c.t.Context(), topic)
		require.NoError(c.t, err)
		for p, r := range ranges {
			ends[pipeline.TopicPartition{Topic: topic, Partition: int32(p)}] = r.End
		}
	}
	return ends
}

// readNumbers reads the numbers that a chain gave the records of a partition.
func (c *fleet) readNumbers(tp pipeline.TopicPartition, from, to int64, f func(offset, number int64)) {
	c.t.Helper()
	require.NoError(c.t, c.look.broker.Read(c.t.Context(), tp, from, to, func(records []pipeline.Record) error {
		for _, r := range records {
			at := slices.IndexFunc(r.Headers, func(h schema.Header) bool { return h.Key == "ce_outboxseq" })
			if at < 0 {
				return fmt.Errorf("%s, offset %d: no number", tp, r.Offset)
			}
			number, err := strconv.ParseInt(string(r.Headers[at].Value), 10, 64)
			if err != nil {
				return err
			}
			f(r.Offset, number)
		}
		return nil
	}))
}

// repeats counts the records that were in the log before: those that the next relay
// sent, and those that came when the one before it woke up. No number is left out.
func (c *fleet) repeats(tenures []tenure) (again, late int) {
	c.t.Helper()
	for tp, end := range c.ends() {
		highest := int64(0)
		c.readNumbers(tp, 0, end, func(offset, number int64) {
			if number > highest {
				assert.Equal(c.t, highest+1, number, "%s, offset %d", tp, offset)
				highest = number
				return
			}
			last := tenure{}
			for _, t := range tenures {
				if t.stopped[tp] <= offset {
					last = t
				}
			}
			if awake, stopped := last.awake[tp]; stopped && offset >= awake {
				late++
			} else {
				again++
			}
		})
	}
	return again, late
}
