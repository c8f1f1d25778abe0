package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/httpapi/apikeys"
	"github.com/pricemill/pricemill/schema"
)

func newKeys(a *app) *cobra.Command {
	parent := &cobra.Command{
		Use:   "keys",
		Short: "Create, list and revoke API keys",
		Long: `Manage the keys of clients of the API. As soon as there is one, every client
needs one, on this machine too. All processes know a change within a second.

The keys are in the database, as hashes: a key is shown once, when it is made.
Clients send it as "Authorization: Bearer KEY", browsers as a password with any
user name, and the commands of pricemill take it from PRICEMILL_API_KEY.`,
	}
	parent.AddCommand(newKeysCreate(a), newKeysList(a), newKeysRevoke(a), newKeysForget(a))
	return parent
}

// createdKey is a key, and the only answer that has the secret.
type createdKey struct {
	apikeys.Key
	Secret string `json:"secret"`
}

func newKeysCreate(a *app) *cobra.Command {
	var output string
	var perMinute int
	scope := string(apikeys.Read)
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a key, and print it",
		Long: `Create a key, and print it: it cannot be printed again. Each scope includes
those before it:

  read     read prices, jobs, and all else that the API tells
  command  start, pause and stop polling jobs, streams and backfills
  admin    rebuild read models, retry and discard dead letters`,
		Example: "  pricemill keys create dashboard --scope read\n  pricemill keys create loader --scope command --rate 600 -o json",
		Args:    exactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if perMinute < 0 || perMinute > maxRateOfKey {
				return fmt.Errorf("%w: --rate: %d is not within 0 and %d", errUsage, perMinute, maxRateOfKey)
			}
			return a.withBackends(c.Context(), func(ctx context.Context, b *backends) error {
				key, secret, err := apikeys.Create(ctx, b.store, args[0], apikeys.Scope(scope), perMinute, time.Now())
				if err != nil {
					return wrongKey(err)
				}
				return a.print(output, createdKey{key, secret}, func(w io.Writer) {
					fmt.Fprintln(a.stderr, "Keep this key: it is not shown again.")
					fmt.Fprintln(w, secret)
				})
			})
		},
	}
	choiceFlag(c, &scope, "scope", "", plainTexts(apikeys.Scopes), "what the key allows")
	c.Flags().IntVar(&perMinute, "rate", 0, "`requests` per minute, up to 1000000; 0: as clients without a key")
	outputFlag(c, &output)
	return c
}

// maxRateOfKey is the highest limit of a key, as that of RATE_LIMIT_PER_MINUTE.
const maxRateOfKey = 1_000_000

func plainTexts[T ~string](values []T) []string {
	texts := make([]string, len(values))
	for i, value := range values {
		texts[i] = string(value)
	}
	return texts
}

// wrongKey makes what is wrong with a call an error of usage.
func wrongKey(err error) error {
	if errors.Is(err, apikeys.ErrName) || errors.Is(err, apikeys.ErrTaken) {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	return err
}

func newKeysList(a *app) *cobra.Command {
	var output string
	var all bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List keys by name, with their scope and when they were last used",
		Long: `List keys by name. When a key was last used is exact to a minute. The secrets
cannot be shown.`,
		Example: "  pricemill keys list\n  pricemill keys list --all",
		Args:    exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withBackends(c.Context(), func(ctx context.Context, b *backends) error {
				keys, err := apikeys.List(ctx, b.store, all)
				if err != nil {
					return err
				}
				return a.print(output, keys, func(w io.Writer) {
					fmt.Fprintln(w, "ID\tNAME\tSCOPE\tRATE\tCREATED\tLAST USED\tREVOKED")
					for _, k := range keys {
						limit := "-"
						if k.RatePerMinute > 0 {
							limit = fmt.Sprintf("%d/min", k.RatePerMinute)
						}
						fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, k.Name, k.Scope, limit, toSecond(&k.CreatedAt), toSecond(k.LastUsedAt), toSecond(k.RevokedAt))
					}
				})
			})
		},
	}
	outputFlag(c, &output)
	c.Flags().BoolVar(&all, "all", false, "also those that were revoked")
	return c
}

func toSecond(t *schema.Time) string {
	if t == nil {
		return "-"
	}
	return t.Format(time.RFC3339)
}

func newKeysRevoke(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME|ID",
		Short: "Revoke a key forever",
		Long: `Revoke a key forever. All processes refuse it within a second, and end the
streams of prices that it opened. To revoke the last key does not open the API:
clients need a key until "pricemill keys forget".`,
		Example: "  pricemill keys revoke dashboard",
		Args:    exactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withBackends(c.Context(), func(ctx context.Context, b *backends) error {
				key, err := apikeys.Revoke(ctx, b.store, args[0], time.Now())
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(a.stdout, "revoked %s (%s)\n", key.Name, key.ID)
				return err
			})
		},
	}
}

func newKeysForget(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "forget",
		Short: "Delete all revoked keys, so that the API needs no key again",
		Long: `Delete all keys, once each of them is revoked. The API then needs no key again:
anyone who reaches it can read, and command it as HTTP_ALLOW_REMOTE_COMMANDS
says.`,
		Example: "  pricemill keys forget",
		Args:    exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withBackends(c.Context(), func(ctx context.Context, b *backends) error {
				err := apikeys.Forget(ctx, b.store)
				if errors.Is(err, apikeys.ErrValid) {
					return fmt.Errorf(`%w; revoke it first: see "pricemill keys list"`, err)
				}
				return err
			})
		},
	}
}
