package apikeys_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/httpapi/apikeys"
	"github.com/pricemill/pricemill/internal/postgrestest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/postgres"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// onEachEngine runs a test on an empty database of each engine. again opens it once more.
func onEachEngine(t *testing.T, test func(t *testing.T, again func() *store.Store)) {
	t.Parallel()
	opener := func(t *testing.T, open func() (store.Engine, error)) func() *store.Store {
		return func() *store.Store {
			engine, err := open()
			require.NoError(t, err)
			s, err := store.Open(t.Context(), engine)
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, s.Close()) })
			return s
		}
	}
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "db")
		test(t, opener(t, func() (store.Engine, error) { return sqlite.Open(path) }))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		address := postgrestest.Schema(t)
		test(t, opener(t, func() (store.Engine, error) { return postgres.Open(t.Context(), postgres.Config{URL: address}) }))
	})
}

var at = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

func create(t *testing.T, db *store.Store, name string, scope apikeys.Scope) (apikeys.Key, string) {
	t.Helper()
	key, secret, err := apikeys.Create(t.Context(), db, name, scope, 0, at)
	require.NoError(t, err)
	return key, secret
}

func openRing(t *testing.T, db *store.Store) *apikeys.Ring {
	t.Helper()
	r, err := apikeys.Open(t.Context(), db, slog.New(slog.DiscardHandler), time.Now)
	require.NoError(t, err)
	return r
}

func TestKeys(t *testing.T) {
	onEachEngine(t, func(t *testing.T, again func() *store.Store) {
		db := again()
		ctx := t.Context()
		key, secret := create(t, db, "dashboard", apikeys.Read)
		assert.True(t, strings.HasPrefix(secret, "pm_"+key.ID+"_"))
		assert.Len(t, secret, 64)
		_, _, err := apikeys.Create(ctx, db, "dashboard", apikeys.Admin, 0, at)
		require.ErrorIs(t, err, apikeys.ErrTaken)
		for _, name := range []string{"", "a b", "ä", strings.Repeat("a", 65)} {
			_, _, err := apikeys.Create(ctx, db, name, apikeys.Read, 0, at)
			require.ErrorIs(t, err, apikeys.ErrName, name)
		}
		limited, _, err := apikeys.Create(ctx, db, "loader", apikeys.Command, 600, at)
		require.NoError(t, err)

		keys, err := apikeys.List(ctx, db, false)
		require.NoError(t, err)
		assert.Equal(t, []apikeys.Key{key, limited}, keys)
		require.ErrorIs(t, apikeys.Forget(ctx, db), apikeys.ErrValid)

		revoked, err := apikeys.Revoke(ctx, db, "dashboard", at.Add(time.Hour))
		require.NoError(t, err)
		assert.Equal(t, key.ID, revoked.ID)
		_, err = apikeys.Revoke(ctx, db, key.ID, at)
		require.ErrorIs(t, err, apikeys.ErrNone, "once is forever")
		keys, err = apikeys.List(ctx, db, true)
		require.NoError(t, err)
		assert.Equal(t, []apikeys.Key{revoked, limited}, keys)
		second, _ := create(t, db, "dashboard", apikeys.Read) // the name is free again
		assert.NotEqual(t, key.ID, second.ID)

		// The secret is in no row, whatever its type.
		var stored string
		require.NoError(t, db.Get(ctx, &stored, `SELECT COUNT(*) FROM api_keys WHERE CAST(hash AS TEXT) LIKE $1 OR name LIKE $1`, "%"+secret[12:]+"%"))
		assert.Equal(t, "0", stored)
	})
}

// TestOneOfManyGetsTheName: two valid keys never have the same name.
func TestOneOfManyGetsTheName(t *testing.T) {
	onEachEngine(t, func(t *testing.T, again func() *store.Store) {
		db := again()
		var all sync.WaitGroup
		var errs [8]error
		for i := range errs {
			all.Go(func() { _, _, errs[i] = apikeys.Create(t.Context(), db, "same", apikeys.Read, 0, at) })
		}
		all.Wait()
		made := 0
		for _, err := range errs {
			if err == nil {
				made++
			} else {
				assert.ErrorIs(t, err, apikeys.ErrTaken)
			}
		}
		assert.Equal(t, 1, made)
	})
}

func TestRing(t *testing.T) {
	onEachEngine(t, func(t *testing.T, again func() *store.Store) {
		db, other := again(), again() // another process
		ctx := t.Context()
		r := openRing(t, db)
		assert.False(t, r.Required())
		changed := r.Changed()

		// A key that is new is known at once, to one who has it.
		key, secret := create(t, other, "a", apikeys.Command)
		found, err := r.Find(ctx, secret)
		require.NoError(t, err)
		require.NotNil(t, found)
		assert.Equal(t, key.ID, found.ID)
		assert.Equal(t, apikeys.Command, found.Scope)
		assert.True(t, r.Required())
		<-changed

		flipped := "a"
		if strings.HasSuffix(secret, flipped) {
			flipped = "b"
		}
		for _, wrong := range []string{"", "x", secret[:63], secret + "a", strings.ToUpper(secret), secret[:63] + flipped,
			"pm_" + key.ID + "_" + strings.Repeat("a", 52), "pm_aaaaaaaa_" + secret[12:], strings.Replace(secret, "_", "-", 2)} {
			found, err := r.Find(ctx, wrong)
			require.NoError(t, err)
			assert.Nil(t, found, wrong)
		}

		running, stop := context.WithCancel(ctx)
		var run sync.WaitGroup
		run.Go(func() { r.Run(running) })
		defer func() { stop(); run.Wait() }()
		// When it was used is saved before long.
		require.Eventually(t, func() bool {
			keys, err := apikeys.List(ctx, other, false)
			require.NoError(t, err)
			return keys[0].LastUsedAt != nil
		}, 30*time.Second, 10*time.Millisecond)

		changed = r.Changed()
		_, err = apikeys.Revoke(ctx, other, key.ID, at)
		require.NoError(t, err)
		<-changed
		found, err = r.Find(ctx, secret)
		require.NoError(t, err)
		assert.Nil(t, found)
		assert.True(t, r.Required(), "the last key is revoked, which opens nothing")

		changed = r.Changed()
		require.NoError(t, apikeys.Forget(ctx, other))
		<-changed
		assert.False(t, r.Required())
	})
}

// TestMadeUpKeysAskLittle: keys that no one made do not become a query each.
func TestMadeUpKeysAskLittle(t *testing.T) {
	t.Parallel()
	engine, err := sqlite.Open(filepath.Join(t.TempDir(), "db"))
	require.NoError(t, err)
	db, err := store.Open(t.Context(), engine)
	require.NoError(t, err)
	r := openRing(t, db)
	before := r.Looks()
	began := time.Now()
	var all sync.WaitGroup
	for range 500 {
		all.Go(func() {
			found, err := r.Find(t.Context(), "pm_aaaaaaaa_"+strings.Repeat("a", 52))
			assert.NoError(t, err)
			assert.Nil(t, found)
		})
	}
	all.Wait()
	most := 2 + int64(time.Since(began)/apikeys.MissEvery)
	assert.LessOrEqual(t, r.Looks()-before, most, "of 500 requests")

	// Without a database, nothing is said of a key that is not known.
	require.NoError(t, db.Close())
	_, err = r.Find(t.Context(), "pm_aaaaaaaa_"+strings.Repeat("a", 52))
	assert.ErrorIs(t, err, apikeys.ErrUnconfirmed)
}

// TestKeysAreNotTrustedForEver: a key that may have been revoked meanwhile opens nothing.
func TestKeysAreNotTrustedForEver(t *testing.T) {
	t.Parallel()
	engine, err := sqlite.Open(filepath.Join(t.TempDir(), "db"))
	require.NoError(t, err)
	db, err := store.Open(t.Context(), engine)
	require.NoError(t, err)
	_, secret := create(t, db, "a", apikeys.Read)
	now := at
	r, err := apikeys.Open(t.Context(), db, slog.New(slog.DiscardHandler), func() time.Time { return now })
	require.NoError(t, err)
	require.NoError(t, db.Close())
	now = at.Add(apikeys.MaxUnconfirmed)
	found, err := r.Find(t.Context(), secret)
	require.NoError(t, err)
	assert.NotNil(t, found)
	now = now.Add(time.Second)
	_, err = r.Find(t.Context(), secret)
	assert.ErrorIs(t, err, apikeys.ErrUnconfirmed)
}

func TestScopes(t *testing.T) {
	t.Parallel()
	for i, has := range apikeys.Scopes {
		for j, needed := range apikeys.Scopes {
			assert.Equal(t, i >= j, has.Includes(needed), "%s, %s", has, needed)
		}
	}
	assert.False(t, apikeys.Scope("other").Includes(apikeys.Read))
}
