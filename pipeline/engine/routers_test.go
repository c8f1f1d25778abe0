package engine

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// groupBroker knows who subscribes, and delivers nothing.
type groupBroker struct {
	log.Broker
	mu     sync.Mutex
	groups []string
}

type groupSubscriber struct {
	broker *groupBroker
	group  string
	closed chan struct{}
	once   sync.Once
}

func (b *groupBroker) Subscriber(cfg log.SubscriberConfig) (message.Subscriber, error) {
	return &groupSubscriber{broker: b, group: cfg.Group, closed: make(chan struct{})}, nil
}

func (s *groupSubscriber) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	b := s.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	b.groups = append(b.groups, s.group)
	messages := make(chan *message.Message)
	go func() {
		select {
		case <-ctx.Done():
		case <-s.closed:
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.groups = slices.DeleteFunc(b.groups, func(g string) bool { return g == s.group })
		close(messages)
	}()
	return messages, nil
}

func (s *groupSubscriber) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (b *groupBroker) present() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(slices.Values(b.groups))
}

// Stages come and go while the runtime runs; time is virtual.
func TestStagesComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRig(t, &Recorder{})
		spec := func(name string) StageSpec {
			return StageSpec{Name: name, Consumes: []schema.EventType{schema.PriceObserved{}.EventType()}, Handler: &Recorder{}}
		}
		var mu sync.Mutex
		wanted, failure := []StageSpec{spec("a.g1")}, error(nil)
		want := func(err error, names ...string) {
			mu.Lock()
			defer mu.Unlock()
			wanted, failure = nil, err
			for _, name := range names {
				wanted = append(wanted, spec(name))
			}
		}
		broker := &groupBroker{Broker: r.Broker}
		runtime, err := New(Config{Store: r.DB, Broker: broker, Topics: r.Stage.topics, GroupPrefix: "p", Log: slog.New(slog.DiscardHandler),
			Stages: []StageSpec{spec("fixed")}, Changing: func(context.Context) ([]StageSpec, error) {
				mu.Lock()
				defer mu.Unlock()
				return wanted, failure
			}, Serving: func(context.Context) ([]string, error) { return []string{"fixed", "a.g1"}, nil }})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		started, ended := make(chan struct{}), make(chan error, 1)
		go func() { ended <- runtime.Run(ctx, func() { close(started) }) }()
		<-started
		assert.Equal(t, []string{"p.a.g1", "p.fixed"}, broker.present())

		want(nil, "a.g1", "a.g2")
		time.Sleep(changePoll + time.Millisecond)
		synctest.Wait()
		assert.Equal(t, []string{"p.a.g1", "p.a.g2", "p.fixed"}, broker.present())
		states := map[string]CheckState{}
		for _, c := range runtime.Checks(t.Context()) {
			states[c.Name] = c.State
		}
		assert.Equal(t, CheckFailed, states["stage a.g1"], "it has no partitions")
		assert.Equal(t, CheckWarning, states["stage a.g2"], "nor has this one, on which no reader depends: its generation does not serve, or is gone")

		want(errors.New("not now"))
		time.Sleep(2 * changePoll)
		assert.Len(t, broker.present(), 3, "no one knows better")
		want(nil, "a.g2")
		time.Sleep(2 * changePoll)
		synctest.Wait()
		assert.Equal(t, []string{"p.a.g2", "p.fixed"}, broker.present())
		assert.Len(t, runtime.present(), 2)
		stop()
		require.NoError(t, <-ended)
		assert.Empty(t, broker.present())
	})
}
