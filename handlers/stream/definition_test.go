package stream_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// defined is a scripted provider with a definition.
type defined struct{ *scripted }

func (defined) DefinedBy() (version, text string) { return "version-1", "the text" }

// What a provider of a definition sends is kept with its version, and the text is in the
// database before any of it is in the log.
func TestMessagesKeepTheirDefinition(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		w := &world{Emitter: rig.Emitter()}
		provider := defined{scripts(sends(idle, 1, 2))}
		runner := newHandler(t, provider, nil)
		command(t, rig, runner, started("s", "p"))
		stop := process(t, w, runner)
		settle(time.Second)
		stop()
		records := rig.Sent()
		require.Len(t, records, 2)
		for _, r := range records {
			assert.Equal(t, "version-1", r.Event.Payload.(schema.QuoteFetched).Definition)
		}
		var texts []string
		require.NoError(t, rig.DB.Select(t.Context(), &texts, `SELECT definition FROM provider_definitions WHERE version = 'version-1'`))
		assert.Equal(t, []string{"the text"}, texts)
	})
}

// Without the text in the database nothing is streamed.
func TestADefinitionThatCannotBeKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		provider := defined{scripts(sends(idle, 1))}
		runner := newHandler(t, provider, nil)
		command(t, rig, runner, started("s", "p"))
		rename := func(from, to string) {
			require.NoError(t, rig.DB.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), `ALTER TABLE `+from+` RENAME TO `+to)
				return err
			}))
		}
		rename("provider_definitions", "away")
		defer process(t, rig.Emitter(), runner)()
		settle(2 * time.Second)
		shown := get(t, rig, "s")
		assert.Equal(t, "the provider's definition could not be kept in the database", shown.LastError)
		assert.Empty(t, provider.connections())
		assert.Empty(t, rig.Sent())
		rename("away", "provider_definitions")
		settle(5 * time.Second)
		assert.Len(t, rig.Sent(), 1)
	})
}
