package cmd_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// What an installation runs is known to its database: the settings of the shell that
// verify runs in must not make it look at less and say that all holds.
func TestVerifyLooksAtWhatTheInstallationRuns(t *testing.T) {
	t.Parallel()
	env := newStack(t, nil)
	with := env.with(environment{"PLUGINS": "candles"})
	p := start(t, with)
	ingested(t, p.env, append(ofCloses, monthlyCloses)...)
	p.stopped()

	status, proof, stderr := run(t, env, "verify")
	assert.Zero(t, status, stderr)
	assert.Regexp(t, `projection candles +ok `, proof)
	status, proof, stderr = run(t, env, "verify", "--projection", "candles")
	assert.Zero(t, status, stderr)
	assert.Regexp(t, `projection candles +ok `, proof)
	damageTables(t, env, `UPDATE candles SET prices = prices + 1 WHERE interval = '1d' AND id = (SELECT MAX(id) FROM candles WHERE interval = '1d')`)
	status, proof, _ = run(t, env, "verify")
	assert.Equal(t, 1, status)
	assert.Regexp(t, `projection candles +different `, proof)
	_, listed, _ := run(t, env, "generations", "list")
	assert.Contains(t, listed, "candles")
	damageTables(t, env, `UPDATE candles SET prices = prices - 1 WHERE interval = '1d' AND id = (SELECT MAX(id) FROM candles WHERE interval = '1d')`)

	// Of a plugin that is not in this binary.
	damageTables(t, env, `INSERT INTO generations (projection, number, fold, active, following, scratch, tables, created_at)
		SELECT 'theirs', 1, 'v1', 1, 1, 0, 'theirs', MAX(created_at) FROM generations`)
	damageTables(t, env, `INSERT INTO positions (stage, topic, part, topic_id, next_offset, chain_outbox, chain_seq, halted, moved_at)
		SELECT 'their-handler', topic, part, topic_id, 0, '', 0, '', moved_at FROM positions WHERE topic = 'price-events' AND part = 1 LIMIT 1`)
	status, proof, _ = run(t, env, "verify")
	assert.Equal(t, 1, status)
	assert.Regexp(t, `projection theirs +unproven `, proof)
	assert.Regexp(t, `stage their-handler +unproven `, proof)
	assert.Contains(t, proof, "leave it out with --without theirs")
	_, listed, _ = run(t, env, "generations", "list")
	assert.Contains(t, listed, "theirs")
	status, proof, stderr = run(t, env, "verify", "--without", "theirs")
	assert.Equal(t, 1, status, stderr)
	assert.Regexp(t, `projection theirs +ok `, proof)
	status, proof, stderr = run(t, env, "verify", "--without", "theirs", "--without", "their-handler")
	assert.Zero(t, status, "%s%s", proof, stderr)
	status, _, stderr = run(t, env, "verify", "--without", "candles")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, `there is no "candles" that this binary lacks; known are theirs, their-handler`)
}
