package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"

	"github.com/IBM/sarama"

	"github.com/pricemill/pricemill/pipeline/log"
)

// Broker is a cluster. Its methods are safe for concurrent use.
type Broker struct {
	cfg Config
	log *slog.Logger
	// codec is cfg.Compression, read.
	codec sarama.CompressionCodec

	// client asks for metadata and offsets, producer sends. They are apart
	// because a connection carries one of sarama's plain requests at a time.
	client, producer sarama.Client
	// lines are the connections of both, and of readers.
	lines *lines

	// life ends with Close, and with it whatever is under way.
	life    context.Context
	endLife context.CancelFunc

	mu      sync.Mutex
	closed  bool                        // Close was called; life continues until publishers are flushed
	closers map[io.Closer]struct{}      // subscribers and publishers
	members map[string]map[int]struct{} // numbers taken by the members of each group
	work    sync.WaitGroup              // calls of sarama that outlive their callers

	closing  sync.Once
	closeErr error
}

var (
	_ log.Broker   = (*Broker)(nil)
	_ log.Follower = (*Broker)(nil)
)

// New connects to the cluster. It fails when no broker answers, after
// Config.Timeout at the most.
func New(ctx context.Context, cfg Config) (*Broker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configuring kafka: %w", err)
	}
	cfg = cfg.withDefaults()
	codec, err := cfg.codec()
	if err != nil {
		return nil, fmt.Errorf("configuring kafka: %w", err)
	}
	lines := cfg.lines()
	client, err := sarama.NewClient(cfg.Brokers, cfg.client(lines))
	if err != nil {
		return nil, fmt.Errorf("configuring kafka: %w", err)
	}
	producer, err := sarama.NewClient(cfg.Brokers, cfg.client(lines))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("configuring kafka: %w", err), client.Close())
	}
	life, endLife := context.WithCancel(context.Background())
	b := &Broker{
		cfg: cfg, log: cfg.Logger, codec: codec, client: client, producer: producer, lines: lines,
		life: life, endLife: endLife,
		closers: map[io.Closer]struct{}{},
		members: map[string]map[int]struct{}{},
	}
	connect := func() (none struct{}, err error) { return none, client.RefreshMetadata() }
	connecting, cancel := b.bounded(ctx)
	defer cancel()
	if _, err := await(connecting, b, connect); err != nil {
		if ctx.Err() == nil && connecting.Err() != nil {
			err = fmt.Errorf("no answer within %v: %w", cfg.Timeout, err)
		} else {
			err = b.explainRefusal(connecting, err)
		}
		err = fmt.Errorf("connecting to Kafka at %s: %w", strings.Join(cfg.Brokers, ", "), err)
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// explainRefusal says more about why no broker answers than sarama's client
// does, which drops what brokers answer before a login, such as that they do not
// know its mechanism.
func (b *Broker) explainRefusal(ctx context.Context, err error) error {
	if errors.Is(err, sarama.ErrOutOfBrokers) && errors.Unwrap(err) == nil {
		conn := sarama.NewBroker(b.cfg.Brokers[0])
		_, reason := await(ctx, b, func() (connected bool, err error) {
			if err := conn.Open(b.client.Config()); err != nil {
				return false, err
			}
			defer func() { _ = conn.Close() }()
			return conn.Connected()
		})
		err = errors.Join(err, reason)
	}
	if hungUp(err) {
		err = fmt.Errorf("%w (a broker that hangs up may want another security protocol, a certificate, or another login)", err)
	}
	return err
}

// Close ends all subscriptions, publishers and connections and waits for their
// goroutines. Calls under way return an error. Later calls of Close return what
// the first did.
func (b *Broker) Close() error {
	b.closing.Do(func() {
		b.mu.Lock()
		b.closed = true
		closers := b.closers
		b.closers = nil
		b.mu.Unlock()

		// Publishers flush what they were given, so they close before life ends.
		// Side by side, since each may have to wait for a handler.
		var errs []error
		var done sync.WaitGroup
		failures := make(chan error, len(closers))
		for c := range closers {
			done.Go(func() { failures <- c.Close() })
		}
		done.Wait()
		close(failures)
		for err := range failures {
			errs = append(errs, err)
		}
		b.mu.Lock() // from here on, await starts nothing more
		b.endLife()
		b.mu.Unlock()
		// Nothing that is still under way has anyone who waits for it.
		b.lines.cut()
		errs = append(errs, b.client.Close(), b.producer.Close())
		b.work.Wait()
		b.closeErr = errors.Join(errs...)
	})
	return b.closeErr
}

// adopt makes Close close c.
func (b *Broker) adopt(c io.Closer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return fmt.Errorf("broker: %w", ErrClosed)
	}
	b.closers[c] = struct{}{}
	return nil
}

// disown is called by what closed on its own.
func (b *Broker) disown(c io.Closer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.closers, c)
}

// joinGroup takes the lowest free number among this process's members of a
// group and returns the id of the static member, empty for a dynamic one. Two
// members with one id would put each other out of the group forever.
func (b *Broker) joinGroup(group string) (instanceID string, leave func()) {
	if b.cfg.InstanceID == "" {
		return "", func() {}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.members[group] == nil {
		b.members[group] = map[int]struct{}{}
	}
	number := 0
	for taken := true; taken; {
		number++
		_, taken = b.members[group][number]
	}
	b.members[group][number] = struct{}{}
	leave = func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.members[group], number)
	}
	if number == 1 {
		return b.cfg.InstanceID, leave
	}
	return b.cfg.InstanceID + "-" + strconv.Itoa(number), leave
}

// bounded gives a call its deadline, and ends it with the Broker.
func (b *Broker) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	stop := context.AfterFunc(b.life, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// retry calls f until it succeeds, fails permanently, or ctx is done.
func (b *Broker) retry(ctx context.Context, doing string, f func() error) error {
	for attempt := 1; ; attempt++ {
		err := f()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || classify(err) == hopeless {
			return fmt.Errorf("%s: %w", doing, err)
		}
		b.log.Debug("trying again", slog.String("what", doing), slog.Int("attempt", attempt), slog.Any("error", err))
		if !log.Pause(ctx, backoff(attempt)) {
			return fmt.Errorf("%s: %w", doing, errors.Join(context.Cause(ctx), err))
		}
	}
}

// await makes a call of sarama, which knows no contexts, return when ctx is
// done. The call itself continues until it ends by one of sarama's own limits;
// Close waits for it.
func await[T any](ctx context.Context, b *Broker, call func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	done := make(chan result, 1)
	begun := b.begin(func() {
		value, err := call()
		done <- result{value, err}
	})
	if !begun {
		return none, fmt.Errorf("broker: %w", ErrClosed)
	}
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}

// begin runs f in a goroutine that Close waits for; false where Close has begun to.
func (b *Broker) begin(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.life.Err() != nil {
		return false
	}
	b.work.Go(f)
	return true
}
