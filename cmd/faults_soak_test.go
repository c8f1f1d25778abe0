package cmd_test

import (
	"cmp"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// TestFaultsSoak has one thing after the other go wrong for a long time, while
// answers come in, clients ask for everything, and the provider misbehaves. What
// the processes hold that live through all of it stays level.
func TestFaultsSoak(t *testing.T) {
	s := newScenario(t, "soak with random faults", everyStack...)
	lasting := pick(s, 20*time.Second, 15*time.Minute)
	settings := environment{"KAFKA_SESSION_TIMEOUT": "6s", "FETCH_TIMEOUT": "1s",
		"SIMULATED_FAULTS": "FAIL=fail,HANG=hang,SLOW=late:200ms,NOPE=unknown,JUNK=garbage,ZERO=zero,HUGE=too_large"}
	var c *fleet
	var live []*worker // through it all
	var faults []fault
	if onServices() {
		settings["KAFKA_PARTITIONS"] = "6"
		c = newFleet(s, settings)
		steady := c.add(workerRoles, "steady", nil)
		one := c.add(workerRoles, "worker-1", environment{"KAFKA_INSTANCE_ID": "worker-1"})
		two := c.add(workerRoles, "worker-2", nil)
		live = []*worker{c.addServer("api"), steady}
		mortals := []*worker{one, two}
		faults = []fault{c.someKill(mortals), c.someRestart(mortals), c.someFreeze([]*worker{steady, one, two}), c.someSession, c.someIntruder}
	} else {
		c = newFleet(s, settings)
		live = []*worker{c.addServer("all")}
		faults = []fault{c.someFreeze(live)} // a table log has no groups to join
	}
	c.mayRefuse()
	c.begin(c.workers...)
	c.clients.often(100*time.Millisecond, c.clients.askFresh)
	recorded := c.record(pick(s, 250*time.Millisecond, 3*time.Second), live...)
	for over := time.Now().Add(lasting); time.Now().Before(over); {
		c.awaitLoad()
		stood := c.standing()
		struck := time.Now()
		faults[s.random.IntN(len(faults))]()
		c.awaitMoves(stood)
		s.recovered(time.Since(struck))
	}
	for _, series := range recorded() {
		c.checkSeries(series)
	}
	c.end()
}

// fault is something that goes wrong, and is over when it returns.
type fault func()

// someKill kills one of the processes, and starts it again.
func (c *fleet) someKill(of []*worker) fault {
	return func() {
		w := of[c.random.IntN(len(of))]
		c.t.Logf("%s is killed", w.name)
		c.kill(w)
		c.start(w)
	}
}

// someRestart stops one of the processes as an operator does, and starts it again.
func (c *fleet) someRestart(of []*worker) fault {
	return func() {
		w := of[c.random.IntN(len(of))]
		c.t.Logf("%s is stopped", w.name)
		w.stop()
		w.start()
	}
}

// someFreeze stops one of the processes with SIGSTOP, often for longer than its
// session lasts.
func (c *fleet) someFreeze(of []*worker) fault {
	return func() {
		w := of[c.random.IntN(len(of))]
		lasting := time.Duration(c.random.IntN(pick(c.scenario, 4000, 12000))) * time.Millisecond
		c.t.Logf("%s is frozen for %v", w.name, lasting)
		w.freeze()
		pause(lasting)
		w.thaw()
	}
}

// someSession ends a session of the database, of any process.
func (c *fleet) someSession() {
	var sessions []struct {
		PID  int    `db:"pid"`
		Name string `db:"application_name"`
	}
	// The test's own have the name that is no one's.
	require.NoError(c.t, c.look.db.Select(c.t.Context(), &sessions, `SELECT pid, application_name FROM pg_stat_activity
		WHERE datname = current_database() AND application_name <> 'pricemill' ORDER BY pid`))
	drawn := sessions[c.random.IntN(len(sessions))]
	var ended bool
	require.NoError(c.t, c.look.db.Get(c.t.Context(), &ended, `SELECT pg_terminate_backend(CAST($1 AS INTEGER))`, drawn.PID))
	c.t.Logf("a session of %s is ended: %v", drawn.Name, ended)
}

// someIntruder joins the group of a stage as a member that does nothing, so that
// others lose partitions to it and get them back.
func (c *fleet) someIntruder() {
	stages := []struct {
		name  string
		topic schema.Topic
	}{{"raw-store", schema.RawQuotes}, {"normalize", schema.StoredQuotes}, {"moving-averages.g1", schema.PriceEvents}}
	stage := stages[c.random.IntN(len(stages))]
	staying := time.Duration(c.random.IntN(2000)) * time.Millisecond
	c.t.Logf("someone joins the group of %s for %v", stage.name, staying)
	config := sarama.NewConfig()
	config.Version = sarama.V2_8_0_0
	config.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategyRange()}
	prefix := cmp.Or(c.env["KAFKA_GROUP_ID"], "market-data-consumers")
	group, err := sarama.NewConsumerGroup(strings.Split(c.env["KAFKA_BOOTSTRAP_SERVERS"], ","), prefix+"."+stage.name, config)
	require.NoError(c.t, err)
	ctx, leave := context.WithTimeout(c.t.Context(), time.Minute)
	defer leave()
	i := &intruder{joined: make(chan struct{})}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for ctx.Err() == nil {
			if err := group.Consume(ctx, []string{topicName(c.env, stage.topic)}, i); err != nil {
				c.t.Logf("joining: %v", err)
			}
		}
	}()
	select {
	case <-i.joined:
	case <-ctx.Done():
		assert.Fail(c.t, "no one could join the group")
	}
	pause(staying)
	leave()
	<-gone
	assert.NoError(c.t, group.Close())
}

// intruder holds its partitions and reads nothing.
type intruder struct {
	once   sync.Once
	joined chan struct{}
}

// Setup implements sarama.ConsumerGroupHandler.
func (i *intruder) Setup(sarama.ConsumerGroupSession) error {
	i.once.Do(func() { close(i.joined) })
	return nil
}

// Cleanup implements sarama.ConsumerGroupHandler.
func (i *intruder) Cleanup(sarama.ConsumerGroupSession) error { return nil }

// ConsumeClaim implements sarama.ConsumerGroupHandler.
func (i *intruder) ConsumeClaim(session sarama.ConsumerGroupSession, _ sarama.ConsumerGroupClaim) error {
	<-session.Context().Done()
	return nil
}
