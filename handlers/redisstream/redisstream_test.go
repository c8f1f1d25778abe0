package redisstream_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/handlers/redisstream"
	"github.com/pricemill/pricemill/handlers/target"
	"github.com/pricemill/pricemill/handlers/target/targettest"
	"github.com/pricemill/pricemill/internal/redistest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) {
	targettest.RunIfChild(func(string) func(pipeline.Env) (pipeline.Handler, error) { return redisstream.New })
	goleak.VerifyTestMain(m)
}

// connect returns a client of a Redis, to look at what it has.
func connect(t *testing.T, url string) *redis.Client {
	t.Helper()
	options, err := redis.ParseURL(url)
	require.NoError(t, err)
	client := redis.NewClient(options)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

// stream is the name of a stream of a test's own.
func stream(t *testing.T) string { return strings.ReplaceAll(t.Name(), "/", ".") }

func newHandler(t *testing.T, settings map[string]any) pipeline.Handler {
	t.Helper()
	h, err := redisstream.New(pipeline.Env{Settings: settings, Now: func() time.Time { return targettest.Now }})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.(interface{ Close() error }).Close()) })
	return h
}

// entries are those of a stream, each a map of its fields.
func entries(t *testing.T, client *redis.Client, name string) []map[string]any {
	t.Helper()
	messages, err := client.XRange(t.Context(), name, "-", "+").Result()
	require.NoError(t, err)
	all := make([]map[string]any, len(messages))
	for i, m := range messages {
		all[i] = m.Values
	}
	return all
}

// ids are those of the events of a stream.
func ids(t *testing.T, client *redis.Client, name string) []string {
	t.Helper()
	var all []string
	for _, e := range entries(t, client, name) {
		all = append(all, e["id"].(string))
	}
	return all
}

// idsOf are the ids of records.
func idsOf(records []pipeline.Record) []string {
	all := make([]string, len(records))
	for i, r := range records {
		all[i] = r.Event.ID
	}
	return all
}

func TestAnEntry(t *testing.T) {
	t.Parallel()
	url := redistest.SharedURL(t)
	client, h := connect(t, url), newHandler(t, map[string]any{"url": url, "stream": stream(t)})
	rig := pipelinetest.New(t)
	stage := rig.StartHandler(t, redisstream.Name, h)
	defer stage.Close(t)
	records := targettest.Records(t, rig, 1)
	require.NoError(t, stage.Deliver(records...))
	assert.Equal(t, []map[string]any{{"id": records[0].Event.ID, "source": "pipelinetest", "type": "market.price.observed.v1", "subject": "p/A",
		"time": "2026-01-05T14:30:00.000000Z", "data": string(records[0].Value)}}, entries(t, client, stream(t)))
}

// Processes that are killed between what they sent and their position send each event once,
// and those of a partition in order.
func TestKilled(t *testing.T) {
	t.Parallel()
	url := redistest.SharedURL(t)
	client := connect(t, url)
	const prices = 60
	targettest.Kill(t, redisstream.Name, map[string]any{"url": url, "stream": stream(t)}, prices)
	want := idsOf(targettest.Records(t, pipelinetest.New(t), prices))
	got := ids(t, client, stream(t))
	require.ElementsMatch(t, want, got)
	for partition := range pipelinetest.Partitions {
		of := func(all []string) []string {
			return slices.DeleteFunc(slices.Clone(all), func(id string) bool {
				return !strings.HasPrefix(id, fmt.Sprintf("%s/%d/", schema.PriceEvents, partition))
			})
		}
		assert.Equal(t, of(want), of(got))
	}
}

// Redis dies while events are sent, and comes back without what it had on no disk: the
// stage continues, and the stream gets what follows.
func TestRedisDies(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	h := newHandler(t, map[string]any{"url": server.URL(), "stream": stream(t)}).(pipeline.Preparer)
	records := targettest.Records(t, pipelinetest.New(t), 10)
	require.NoError(t, h.Prepare(t.Context(), records[:5]))
	server.Kill()
	err := h.Prepare(t.Context(), records)
	require.ErrorContains(t, err, "adding to the stream "+stream(t)+" at "+server.Address())
	require.False(t, pipeline.IsPermanent(err), "nothing is a dead letter because Redis is down")
	server.Run()
	require.NoError(t, h.Prepare(t.Context(), records[5:]))
	assert.ElementsMatch(t, idsOf(records[5:]), ids(t, connect(t, server.URL()), stream(t)))
}

// An answer that is lost says nothing about whether the events are there.
func TestALostAnswer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := connect(t, server.URL())
	h := newHandler(t, map[string]any{"url": server.URL(), "stream": stream(t), "timeout": "100ms"}).(pipeline.Preparer)
	records := targettest.Records(t, pipelinetest.New(t), 10)
	require.NoError(t, h.Prepare(t.Context(), records[:1]))
	server.Freeze() // what is written to it now is read when it thaws
	require.ErrorContains(t, h.Prepare(t.Context(), records), "adding to the stream")
	server.Thaw()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		assert.NoError(c, h.Prepare(context.WithoutCancel(t.Context()), records))
	}, 20*time.Second, 10*time.Millisecond)
	assert.ElementsMatch(t, idsOf(records), ids(t, client, stream(t)))
}

// The script decides as target.Recent does, whatever is sent.
func TestTheScriptIsTheRule(t *testing.T) {
	t.Parallel()
	url := redistest.SharedURL(t)
	client := connect(t, url)
	runs := 0
	rapid.Check(t, func(draw *rapid.T) {
		runs++
		name := fmt.Sprintf("%s.%d", stream(t), runs)
		keep := rapid.IntRange(1, 6).Draw(draw, "keep")
		h, err := redisstream.New(pipeline.Env{Settings: map[string]any{"url": url, "stream": name, "max_age": "0s"}})
		require.NoError(draw, err)
		defer func() { require.NoError(draw, h.(interface{ Close() error }).Close()) }()
		redisstream.SetKeep(h, keep)
		model := target.NewRecent(keep)
		var want []string
		at := schema.NewTime(targettest.Now)
		for range rapid.IntRange(1, 12).Draw(draw, "events") {
			offset := int64(rapid.IntRange(0, 9).Draw(draw, "offset"))
			late := rapid.IntRange(0, 4).Draw(draw, "late") == 0
			r := pipeline.Record{TopicPartition: pipeline.TopicPartition{Topic: schema.PriceEvents}, TopicID: "t", Offset: offset, Value: []byte("{}")}
			r.Event = schema.Event{ID: fmt.Sprintf("%d%s", offset, rapid.SampledFrom([]string{"", "", "x"}).Draw(draw, "other")), Source: "s",
				Payload: schema.PriceObserved{Symbol: "A", Source: "p", Price: schema.MustDecimal("1"), Timestamp: at, ReceivedAt: at}}
			if !late {
				r.Timestamp = targettest.Now
			}
			place, err := target.PlaceOf(&r)
			require.NoError(draw, err)
			due, wantErr := model.Due(r.Event.ID, place, late)
			err = h.(pipeline.Preparer).Prepare(t.Context(), []pipeline.Record{r})
			if wantErr != nil {
				require.ErrorIs(draw, err, target.ErrSetBack)
				require.Contains(draw, err.Error(), wantErr.Error())
				continue
			}
			require.NoError(draw, err)
			if due {
				model.Add(r.Event.ID, offset, late)
				want = append(want, r.Event.ID)
			}
		}
		require.Equal(draw, want, ids(t, client, name))
	})
}

// A log that was set back has other events at places that were sent: the stage waits for a
// person, and continues once the ids are deleted.
func TestALogThatWasSetBack(t *testing.T) {
	t.Parallel()
	url := redistest.SharedURL(t)
	client, h := connect(t, url), newHandler(t, map[string]any{"url": url, "stream": stream(t)}).(pipeline.Preparer)
	before := targettest.Records(t, pipelinetest.New(t), 5)
	require.NoError(t, h.Prepare(t.Context(), before))
	after := targettest.Records(t, pipelinetest.New(t), 5)
	for i := range after {
		after[i].Event.ID += "-again"
	}
	err := h.Prepare(t.Context(), after)
	require.ErrorIs(t, err, target.ErrSetBack)
	require.False(t, pipeline.IsPermanent(err))
	assert.Len(t, ids(t, client, stream(t)), 5)
	keys, err := client.Keys(t.Context(), stream(t)+":sent:*").Result()
	require.NoError(t, err)
	require.NoError(t, client.Del(t.Context(), keys...).Err())
	require.NoError(t, h.Prepare(t.Context(), after))
	assert.Len(t, ids(t, client, stream(t)), 10)
}

// An event twice in one batch, as a relay that died leaves it in Kafka, is one entry.
func TestTwiceInABatch(t *testing.T) {
	t.Parallel()
	url := redistest.SharedURL(t)
	client, h := connect(t, url), newHandler(t, map[string]any{"url": url, "stream": stream(t)}).(pipeline.Preparer)
	records := targettest.Records(t, pipelinetest.New(t), 1)
	again := records[0]
	again.Offset += 100
	require.NoError(t, h.Prepare(t.Context(), []pipeline.Record{records[0], again}))
	require.NoError(t, h.Prepare(t.Context(), []pipeline.Record{again}))
	assert.Equal(t, idsOf(records), ids(t, client, stream(t)))
}

func TestMaxLen(t *testing.T) {
	t.Parallel()
	url := redistest.SharedURL(t)
	client, h := connect(t, url), newHandler(t, map[string]any{"url": url, "stream": stream(t), "max_len": 100})
	const prices = 3000
	require.NoError(t, h.(pipeline.Preparer).Prepare(t.Context(), targettest.Records(t, pipelinetest.New(t), prices)))
	length, err := client.XLen(t.Context(), stream(t)).Result()
	require.NoError(t, err)
	assert.GreaterOrEqual(t, length, int64(100))
	assert.Less(t, length, int64(500), "Redis trims by whole nodes")
}

// The ids that Redis keeps are bounded.
func TestTheIDsAreBounded(t *testing.T) {
	t.Parallel()
	url := redistest.SharedURL(t)
	client, h := connect(t, url), newHandler(t, map[string]any{"url": url, "stream": stream(t)})
	redisstream.SetKeep(h, 7)
	require.NoError(t, h.(pipeline.Preparer).Prepare(t.Context(), targettest.Records(t, pipelinetest.New(t), 100)))
	keys, err := client.Keys(t.Context(), stream(t)+":sent:*").Result()
	require.NoError(t, err)
	require.NotEmpty(t, keys)
	for _, key := range keys {
		count, err := client.ZCard(t.Context(), key).Result()
		require.NoError(t, err)
		assert.EqualValues(t, 7, count)
	}
}

func TestWhatIsSent(t *testing.T) {
	t.Parallel()
	url := redistest.SharedURL(t)
	client := connect(t, url)
	for name, test := range map[string]struct {
		settings map[string]any
		want     int
	}{
		"all":           {map[string]any{}, 10},
		"a symbol":      {map[string]any{"symbols": "p/a"}, 2},
		"what is young": {map[string]any{"max_age": "1h"}, 9},
		"without a URL": {map[string]any{"url": ""}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			settings := map[string]any{"url": url, "stream": strings.ReplaceAll(stream(t), " ", "-")}
			for key, value := range test.settings {
				settings[key] = value
			}
			records := targettest.Records(t, pipelinetest.New(t), 10)
			records[1].Timestamp = targettest.Now.Add(-2 * time.Hour)
			require.NoError(t, newHandler(t, settings).(pipeline.Preparer).Prepare(t.Context(), records))
			assert.Len(t, ids(t, client, settings["stream"].(string)), test.want)
		})
	}
}

func TestPassword(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--requirepass", "s3cret")
	records := targettest.Records(t, pipelinetest.New(t), 1)
	file := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(file, []byte("s3cret\n"), 0o600))
	require.NoError(t, newHandler(t, map[string]any{"url": server.URL(), "password_file": file}).(pipeline.Preparer).Prepare(t.Context(), records))
	wrong := strings.Replace(server.URL(), "redis://", "redis://:s3cre7@", 1)
	err := newHandler(t, map[string]any{"url": wrong}).(pipeline.Preparer).Prepare(t.Context(), records)
	require.ErrorContains(t, err, "WRONGPASS")
	assert.NotContains(t, err.Error(), "s3cre7")
}

func TestWrongSettings(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(empty, []byte("\n"), 0o600))
	for text, settings := range map[string]map[string]any{
		"url: not a URL such as redis://":              {"url": "http://u:s3cret@h"},
		"url: not a URL such as redis://host:6379/0, ": {"url": "redis://u:s3cret@h:port"},
		"url: not a URL such as redis":                 {"url": "unix://u:s3cret@/tmp/socket"},
		"or rediss:// for TLS":                         {"url": "redis://h/0?db=s3cret"},
		"password_file: open":                          {"url": "redis://h", "password_file": empty + "s"},
		"want 1 to 4096 bytes":                         {"url": "redis://h", "password_file": empty},
		`stream: "a b": want 1 to 200`:                 {"stream": "a b"},
		"max_len: -1 is negative":                      {"max_len": -1},
		"timeout: want 100ms to 1m0s, not 1ms":         {"timeout": "1ms"},
		"max_age: -1s is negative":                     {"max_age": "-1s"},
		`symbols: "": want [provider/]SYMBOL`:          {"symbols": []string{""}},
	} {
		_, err := redisstream.New(pipeline.Env{Settings: settings})
		require.ErrorIs(t, err, pipeline.ErrSettings, text)
		require.ErrorContains(t, err, text)
		assert.NotContains(t, err.Error(), "s3cret")
	}
}
