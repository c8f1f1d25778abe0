// Package cmd is the composition root: configuration, backends, and one file a
// subcommand. It is the only package that knows all others.
package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// helpColumns is how wide help is at most.
const helpColumns = 80

// errUsage is wrapped by errors that are the caller's: wrong flags, arguments
// or settings.
var errUsage = errors.New("usage")

// Main runs the command line and returns the exit status. env looks settings
// up, as os.LookupEnv does.
func Main(ctx context.Context, args []string, env func(string) (string, bool), stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	root := newRoot(&app{env: env, stdout: stdout, stderr: stderr})
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errUsage):
		fmt.Fprintln(stderr, "pricemill:", err)
		return exitUsage
	default:
		fmt.Fprintln(stderr, "pricemill:", err)
		return exitFailed
	}
}

// app is what subcommands share.
type app struct {
	env            func(string) (string, bool)
	stdout, stderr io.Writer
	configFile     string
	flags          map[string]string // settings given as flags
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "pricemill",
		Short: "A market data service: live prices, and the averages that follow from them",
		Long: `Pricemill fetches quotes, keeps every answer byte for byte, appends price events
to a log, folds them into SQL read models, and serves those over REST.

Settings come from flags, then the environment, then a configuration file, then
defaults. With none at all, "pricemill serve" keeps log and tables in SQLite
under ./data, and prices are simulated. DATABASE_URL puts both into PostgreSQL,
and KAFKA_BOOTSTRAP_SERVERS the log on Kafka. An installation keeps the log it
began with.

The exit status is 0 if all went well, 2 if the call or the settings are wrong,
and 1 for anything else.`,
		Version:       versionLine(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetUsageTemplate(strings.NewReplacer(".FlagUsages ", fmt.Sprintf(".FlagUsagesWrapped %d ", helpColumns),
		"for more information about a command", "for more about it").Replace(root.UsageTemplate()))
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(flagError)
	root.PersistentFlags().StringVar(&a.configFile, "config", "", "configuration file (YAML)")
	a.flags = map[string]string{}
	root.PersistentFlags().Var(settingFlag{a, "data_dir"}, "data-dir", "directory of the SQLite database")
	root.AddCommand(newServe(a), newIngest(a), newCorrect(a), newRetract(a), newCorrections(a), newAdjust(a), newAdjustments(a), newPoll(a), newPrice(a), newRequest(a), newAverage(a), newHistory(a), newChart(a), newWatch(a), newSymbols(a), newIndicators(a), newIndicator(a), newProviders(a), newProvider(a), newStreams(a), newBackfill(a), newReplay(a), newStages(a),
		newDeadLetters(a), newVerify(a), newRebuild(a), newRenormalize(a), newGenerations(a), newHealth(a), newMigrate(a), newKeys(a), newMCP(a), newBackup(a), newBench(a), newConfig(a), newPlugins(a),
		newMove(a), newRefill(a), newDeleteData(a), newDeletions(a), newTopology(a), newNew(a), newLicenses(a), newVersion(a))
	strictGroups(root)
	a.completeValues(root)
	return root
}

// settingFlag is a flag that sets a setting of the configuration.
type settingFlag struct {
	app *app
	key string
}

func (f settingFlag) Set(value string) error { f.app.flags[f.key] = value; return nil }
func (f settingFlag) String() string         { return "" }
func (f settingFlag) Type() string           { return "string" }

// exactArgs is cobra.ExactArgs as an error of usage.
func exactArgs(n int) cobra.PositionalArgs { return usageArgs(cobra.ExactArgs(n)) }

// usageArgs makes what is wrong with arguments an error of usage.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return fmt.Errorf("%w: %w; see %q", errUsage, err, c.CommandPath()+" --help")
		}
		return nil
	}
}
