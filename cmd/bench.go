package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/pipeline/rowid"
	"github.com/pricemill/pricemill/schema"
)

func newBench(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "bench",
		Short: "Benchmark the pipeline against the limits of this machine",
		Long: `Measure the pipeline and, in the same run, the most that this machine could do:
the limit. Compare ratios rather than rates: they depend least on what else the
machine does.

The service under test runs in this process exactly as "pricemill serve" runs
it, with your settings: windows, partitions, database, log. The load is
generated in this process too, so its cost is part of the figures. Your data is
not touched: without DATABASE_URL, log and database are created in a directory
next to DATA_DIR, on the same disk; with it, in a schema of their own; with
Kafka, the log in topics of its own. All of it is removed at the end, even if
the run fails or is interrupted.

A database that holds data is refused, because the load would slow its users
down; --beside-data overrides that.`,
	}
	c.AddCommand(newBenchRebuild(a), newBenchChain(a), newBenchReads(a), newBenchAPI(a), newBenchPush(a), newBenchMemory(a), newBenchStart(a))
	return c
}

// measurement is one run of a scenario: what its flags say, and what all
// scenarios need.
type measurement struct {
	app        *app
	config     config
	log        *slog.Logger
	events     int
	symbols    int
	partitions int
	besideData bool
	output     string
	cpuProfile string
	memProfile string
}

// benchCommand makes a scenario a command with the flags that all have; measure
// does the work.
func benchCommand(a *app, c *cobra.Command, events, symbols int, measure func(context.Context, *measurement) (report, error)) *cobra.Command {
	m := &measurement{app: a}
	flags := c.Flags()
	flags.IntVar(&m.events, "events", events, "how many `events`, as said above")
	flags.IntVar(&m.symbols, "symbols", symbols, "`symbols` that prices are of")
	flags.IntVar(&m.partitions, "partitions", 0, "`partitions` of each topic (default KAFKA_PARTITIONS)")
	flags.BoolVar(&m.besideData, "beside-data", false, "run although the database holds data; they are left alone, but share the load")
	flags.StringVar(&m.cpuProfile, "cpuprofile", "", "write a profile of this process, load included, to this `file`, for go tool pprof")
	flags.StringVar(&m.memProfile, "memprofile", "", "write a profile of what this process allocated to this `file`")
	outputFlag(c, &m.output)
	c.Args = exactArgs(0)
	c.RunE = func(c *cobra.Command, _ []string) error { return m.run(c.Context(), c.CommandPath(), measure) }
	return c
}

// run checks, measures and prints.
func (m *measurement) run(ctx context.Context, title string, measure func(context.Context, *measurement) (report, error)) (err error) {
	if err := m.prepare(); err != nil {
		return err
	}
	if err := m.refuseData(ctx); err != nil {
		return err
	}
	stopProfile, err := m.profile()
	if err != nil {
		return err
	}
	result, err := measure(ctx, m)
	if err = errors.Join(err, stopProfile()); err != nil {
		return fmt.Errorf("measuring: %w", err)
	}
	return m.app.print(m.output, result, func(w io.Writer) {
		fmt.Fprintf(w, "%s: %d symbols, %d partitions, windows %s, %s and %s, %d processors, %s\n\n", title, m.symbols,
			m.config.Partitions, m.config.movingAverageText, m.config.engineName(), m.config.brokerName(), runtime.NumCPU(), runtime.Version())
		result.table(w)
	})
}

// prepare reads the settings, and changes those that would be in the way.
func (m *measurement) prepare() error {
	if err := errors.Join(within("--events", m.events, 1, 100_000_000), within("--symbols", m.symbols, 1, 1_000_000),
		within("--partitions", m.partitions, 0, rowid.MaxPartitions)); err != nil {
		return err
	}
	var err error
	if m.config, err = m.app.load(); err != nil {
		return err
	}
	c := &m.config
	if !slices.Contains(c.Providers.names(), simulatedProvider) {
		return fmt.Errorf("%w: the provider %q is not in this binary, and its answers are the load", errUsage, simulatedProvider)
	}
	if m.partitions > 0 {
		c.Partitions = int32(m.partitions)
	}
	c.HTTPAddr, c.Roles, c.InstanceID, c.LimitLoopback = "127.0.0.1:0", roles{true, true, true, true}, "", false
	c.Connections.Total = 100_000 // no client of the load is refused
	c.DefaultProvider = simulatedProvider
	c.Modules[simulatedProvider] = nil // no faults, and no time of its own
	m.log = m.app.loggerAt(*c, slog.LevelWarn)
	return nil
}

// simulatedProvider is whose answers the load is made of.
const simulatedProvider = "simulated"

func within(flag string, n, low, high int) error {
	if n < low || n > high {
		return fmt.Errorf("%w: %s: %d is not within %d and %d", errUsage, flag, n, low, high)
	}
	return nil
}

// profile starts the profiles that are wanted, and returns what ends them.
func (m *measurement) profile() (stop func() error, err error) {
	var stops []func() error
	stop = func() error {
		var errs []error
		for _, f := range stops {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	if m.cpuProfile != "" {
		file, err := os.Create(m.cpuProfile)
		if err != nil {
			return nil, fmt.Errorf("%w: --cpuprofile: %w", errUsage, err)
		}
		stops = append(stops, func() error { pprof.StopCPUProfile(); return file.Close() })
		if err := pprof.StartCPUProfile(file); err != nil {
			return nil, errors.Join(err, stop())
		}
	}
	if m.memProfile != "" {
		file, err := os.Create(m.memProfile)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%w: --memprofile: %w", errUsage, err), stop())
		}
		stops = append(stops, func() error { return errors.Join(pprof.Lookup("allocs").WriteTo(file, 0), file.Close()) })
	}
	return stop, nil
}

// bar shows on a terminal how far something is.
func (m *measurement) bar(doing string, n int) *progressbar.ProgressBar {
	return progressbar.NewOptions(n, progressbar.OptionSetDescription(doing), progressbar.OptionSetWriter(m.app.stderr),
		progressbar.OptionSetVisibility(isTerminal(m.app.stderr)), progressbar.OptionShowCount(), progressbar.OptionShowIts(),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
}

func clearBar(bar *progressbar.ProgressBar) { _ = errors.Join(bar.Exit(), bar.Clear()) } // it only showed something

// engineName and brokerName are for people.
func (c config) engineName() string {
	if c.DatabaseURL == "" {
		return "SQLite"
	}
	return "PostgreSQL"
}

func (c config) brokerName() string {
	if len(c.Brokers) == 0 {
		return "a table"
	}
	return "Kafka"
}

// figures say how many in what time. What was not measured is zero, and in no
// output.
type figures struct {
	Events    int     `json:"events"`
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"events_per_second"`
	// Limit is the most there could be a second, and Ratio what part of it there
	// is.
	Limit float64 `json:"limit_per_second,omitempty"`
	Ratio float64 `json:"ratio,omitempty"`
	*latencies
}

// latencies are in milliseconds.
type latencies struct {
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`
	Max float64 `json:"max_ms"`
}

// figuresOf sums up events that took so long together, and one by one.
func figuresOf(events int, took time.Duration, each []time.Duration) figures {
	f := figures{Events: events, Seconds: took.Seconds(), PerSecond: float64(events) / took.Seconds()}
	if len(each) > 0 {
		sorted := slices.Sorted(slices.Values(each))
		ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
		f.latencies = &latencies{P50: ms(sorted[len(sorted)/2]), P99: ms(sorted[len(sorted)*99/100]), Max: ms(sorted[len(sorted)-1])}
	}
	return f
}

// against returns the figures next to a limit.
func (f figures) against(limitPerSecond float64) figures {
	f.Limit, f.Ratio = limitPerSecond, f.PerSecond/limitPerSecond
	return f
}

// report is what a scenario found: the headline, and variants in their order.
type report struct {
	figures
	Also variants `json:"also"`
}

type variants []variant

// variant is figures, or whatever else was found: then it prints itself.
type variant struct {
	name  string
	found any
}

// MarshalJSON implements json.Marshaler: an object, by name.
func (v variants) MarshalJSON() ([]byte, error) {
	object := map[string]any{}
	for _, one := range v {
		object[one.name] = one.found
	}
	return json.Marshal(object)
}

func (r report) table(w io.Writer) {
	fmt.Fprintln(w, "\tEVENTS\tSECONDS\tPER SECOND\tLIMIT\tRATIO\tP50 MS\tP99 MS\tMAX MS")
	r.row(w, "headline")
	for _, v := range r.Also {
		if f, ok := v.found.(figures); ok {
			f.row(w, v.name)
		}
	}
	for _, v := range r.Also {
		if s, ok := v.found.(fmt.Stringer); ok {
			fmt.Fprintf(w, "\n%s: %s\n", v.name, s)
		}
	}
}

func (f figures) row(w io.Writer, name string) {
	number := func(x float64, digits int) string {
		if x == 0 {
			return "-"
		}
		return strconv.FormatFloat(x, 'f', digits, 64)
	}
	var l latencies
	if f.latencies != nil {
		l = *f.latencies
	}
	fmt.Fprintf(w, "%s\t%d\t%.2f\t%.0f\t%s\t%s\t%s\t%s\t%s\n", name, f.Events, f.Seconds, f.PerSecond,
		number(f.Limit, 0), number(f.Ratio, 2), number(l.P50, 2), number(l.P99, 2), number(l.Max, 2))
}

// symbolOf is the symbol with a number.
func symbolOf(number int) schema.Symbol { return schema.Symbol("S" + strconv.Itoa(number)) }
