package cmd_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/failpoint"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Faults while an operator's word is carried out, or the log or the database has
// become another one.

// TestFaultsFailpointReset kills the command that has a projection start over,
// before and after its commit, while answers come in.
func TestFaultsFailpointReset(t *testing.T) {
	s := newScenario(t, "`stages reset` killed at a commit", sqliteFirst(everyStack)...)
	v := s.newVictim(nil)
	v.up("")
	fed := s.feed(v.env)
	const stage = "moving-averages.g1"
	require.Eventually(t, func() bool {
		positions, err := store.Positions(t.Context(), v.tables(), stage)
		return err == nil && len(positions) == partitionsInTests
	}, time.Minute, 5*time.Millisecond)
	reset := []string{"stages", "reset", stage, "--to", "start", "--yes"}
	for cycle := range pick(s, 4, 20) {
		point := []failpoint.Point{failpoint.StoreCommitting, failpoint.StoreCommitted}[cycle%2]
		v.commandDies(string(point)+"=kill@1", reset...) // it makes one
		if s.random.IntN(2) == 0 {
			status, _, stderr := run(t, v.env, reset...)
			require.Zero(t, status, stderr)
		}
	}
	s.check(v.env, fed.end())
	v.stop()
}

// TestFaultsFailpointCarryOver has events wait for a topic that is created again,
// and kills the relay while it brings them into the new chains, and then the
// command that lets the stage continue. Each time it is a stack of its own, whose topic
// held nothing yet: so nothing is lost with it.
func TestFaultsFailpointCarryOver(t *testing.T) {
	s := newScenario(t, fmt.Sprintf("a topic created again: killed at `%s`, and `stages skip` at a commit", failpoint.StoreMoving), sqliteFirst(stacksOfKafka)...)
	for range pick(s, 1, 20) {
		s.carryOver(oneEach(0, 20))
	}
}

func (s *scenario) carryOver(answers []fedAnswer) {
	v := s.newVictim(newKafkaStack(s.t, nil))
	// Someone else holds the relay's lease, and does nothing: what raw-store gives
	// waits in the outbox.
	held, err := v.tables().AcquireLease(s.t.Context(), "relay", "idle", time.Hour)
	require.NoError(s.t, err)
	require.True(s.t, held)
	v.up("")
	feed(s.t, v.env, answers)
	require.Eventually(s.t, func() bool { return counted(s.t, v.env)["answers"] == len(answers) }, time.Minute, 20*time.Millisecond)
	v.stop()
	require.NoError(s.t, v.tables().ReleaseLease(s.t.Context(), "relay", "idle"))
	assert.Equal(s.t, len(answers), counted(s.t, v.env)["outbox"])
	deleteTopic(s.t, v.env, schema.StoredQuotes)

	v.dies(fmt.Sprintf("%s=kill@%d", failpoint.StoreMoving, 1+s.random.IntN(partitionsInTests)))
	p := v.up("")
	p.halts("the topic was created again", "pricemill stages skip normalize stored-quotes")
	point := []failpoint.Point{failpoint.StoreCommitting, failpoint.StoreCommitted}[s.random.IntN(2)]
	v.commandDies(string(point)+"=kill@1", "stages", "skip", "--yes") // it makes one
	for stage, lost := range p.resolveWith("skip") {
		assert.Zero(s.t, lost, stage)
	}
	v.judged()
	s.check(v.env, answers)
	v.stop()
}

// TestFaultsFailpointRenewal restores the database from a copy, and kills the relay
// while it gives the chains other names.
func TestFaultsFailpointRenewal(t *testing.T) {
	s := newScenario(t, fmt.Sprintf("the database restored from a copy: killed at `%s`", failpoint.StoreMoving), sqliteFirst(stacksOfKafka)...)
	v := s.newVictim(newKafkaStack(s.t, environment{"MOVING_AVERAGE_WINDOW": "5"})) // as expect has it
	const each = 10
	var answers []fedAnswer
	add := func(p *program) {
		more := oneEach(len(answers)/partitionsInTests, each)
		answers = append(answers, more...)
		p.feed(more)
	}
	add(v.up(""))
	for range pick(s, 1, 20) {
		v.stop()
		v.closeTables()
		restore := copyDatabase(t, v.env)
		add(v.up(""))
		v.stop()
		v.closeTables()
		restore()
		v.dies(fmt.Sprintf("%s=kill@%d", failpoint.StoreMoving, 1+s.random.IntN(16)))
		p := v.up("")
		// Where stages had given the same numbers again before the relay came to
		// look, there is nothing to halt at.
		for stage, lost := range p.resolveWith("skip") {
			assert.Zero(t, lost, stage)
		}
		v.judged()
		add(p)
	}
	// By the tables: the log still holds the prices that were skipped, next to
	// those that came in their place.
	expect(t, v.env, len(answers), len(answers))
	s.verify(v.env)
	s.events += len(answers)
	v.stop()
}
