package postgres_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/proxytest"
	"github.com/pricemill/pricemill/pipeline/store/postgres"
)

// within calls f and fails where it does not return for long: without a limit it
// never would.
func within(t *testing.T, what string, f func() error) error {
	t.Helper()
	began, ended := time.Now(), make(chan error, 1)
	go func() { ended <- f() }()
	select {
	case err := <-ended:
		t.Logf("%s: %v: %v", what, time.Since(began).Round(time.Millisecond), err)
		return err
	case <-time.After(time.Minute):
		require.FailNow(t, "it hangs", what)
		return nil
	}
}

// newHung opens an engine on a server that can be made to hang.
func newHung(t *testing.T, cfg postgres.Config) (*postgres.Engine, *proxytest.Proxy, string) {
	t.Helper()
	u, err := url.Parse(freshSchema(t))
	require.NoError(t, err)
	proxy := proxytest.New(t, "127.0.0.1:0", u.Host)
	u.Host = proxy.Addr()
	cfg.URL = u.String()
	engine := openEngine(t, cfg)
	t.Cleanup(func() { _ = within(t, "closing", engine.Close) })
	return engine, proxy, cfg.URL
}

// TestAContextEndsWhatAHungServerIsAsked: whatever waits for a server that says
// nothing any more waits no longer than its context.
func TestAContextEndsWhatAHungServerIsAsked(t *testing.T) {
	t.Parallel()
	for name, hang := range map[string]func(*proxytest.Proxy){
		"a server that hangs":        (*proxytest.Proxy).Cut,
		"requests that are lost":     func(p *proxytest.Proxy) { p.HalfOpen(proxytest.ToService) },
		"answers that are lost":      func(p *proxytest.Proxy) { p.HalfOpen(proxytest.FromService) },
		"a connection that is reset": (*proxytest.Proxy).Reset,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The limits of statements are far away.
			engine, proxy, address := newHung(t, postgres.Config{StatementTimeout: 12 * time.Hour, IdleTimeout: 12 * time.Hour})
			soon := func() context.Context {
				ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
				t.Cleanup(cancel)
				return ctx
			}
			var one int
			get := func(ctx context.Context) error { return engine.Reader().GetContext(ctx, &one, `SELECT 1`) }
			require.NoError(t, get(t.Context()))
			reading, stopReading := context.WithCancel(t.Context())
			defer stopReading()
			rows, err := engine.Reader().QueryContext(reading,
				`SELECT n, CASE n WHEN 5000 THEN pg_sleep(20) END FROM generate_series(1, 5000) n`)
			require.NoError(t, err)
			require.True(t, rows.Next())
			getPrepared := func(ctx context.Context) error {
				return engine.Reader().GetContext(ctx, &one, `SELECT CAST($1 AS INT)`, 1)
			}
			for range 2 { // from the second time on it is, in a session that no one else has
				require.NoError(t, getPrepared(t.Context()))
			}

			inside, hung := make(chan struct{}), make(chan struct{})
			ended := make(chan error, 1)
			go func() {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended <- engine.Write(ctx, func(tx *sqlx.Tx) error {
					if _, err := tx.ExecContext(ctx, `CREATE TABLE t (n INT)`); err != nil {
						return err
					}
					close(inside)
					<-hung
					context.AfterFunc(soon(), cancel)
					// As watermill-sql's publisher does.
					_, err := tx.ExecContext(context.Background(), `INSERT INTO t VALUES (1)`)
					return err
				})
			}()
			<-inside
			hang(proxy)
			close(hung)
			assert.Error(t, within(t, "a transaction under way", func() error { return <-ended }))
			// Where only what was there is lost, a new connection works.
			asked := time.Now()
			_ = within(t, "a statement that is prepared", func() error { return getPrepared(soon()) })
			assert.Less(t, time.Since(asked), 9*time.Second, "it waited as long as lib/pq does for its request to cancel")
			_ = within(t, "a query", func() error { return get(soon()) })
			_ = within(t, "a transaction", func() error {
				return engine.Write(soon(), func(*sqlx.Tx) error { return nil })
			})
			_ = within(t, "a start", func() error {
				other, err := postgres.Open(soon(), postgres.Config{URL: address})
				if err == nil {
					err = other.Close()
				}
				return err
			})
			stopReading()
			_ = within(t, "rows that were half read", rows.Close)
			proxy.Heal()
			require.NoError(t, within(t, "queries after all", func() error {
				for get(soon()) != nil && t.Context().Err() == nil {
					continue // each finds one more connection that is of no use
				}
				return t.Context().Err()
			}))
		})
	}
}

// TestSilenceIsNoticed: without a context that ends, a server counts as gone when
// it says nothing for longer than a statement may take.
func TestSilenceIsNoticed(t *testing.T) {
	t.Parallel()
	engine, proxy, _ := newHung(t, postgres.Config{StatementTimeout: 100 * time.Millisecond})
	var one int
	get := func() error { return engine.Reader().GetContext(t.Context(), &one, `SELECT 1`) }
	require.NoError(t, get())
	proxy.HalfOpen(proxytest.FromService)
	require.Error(t, within(t, "a query", get))
	require.NoError(t, within(t, "the next query", get))
}
