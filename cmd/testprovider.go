package cmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/handlers/provider/declared"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

func newProvider(a *app) *cobra.Command {
	parent := &cobra.Command{
		Use:   "provider",
		Short: "Test a file that declares a provider",
	}
	parent.AddCommand(newProviderTest(a))
	return parent
}

// providerTest is what the flags of provider test say.
type providerTest struct {
	file, sample, frame, page, symbol string
	status                            int
}

func newProviderTest(a *app) *cobra.Command {
	var t providerTest
	var output string
	c := &cobra.Command{
		Use:   "test FILE",
		Short: "Show what a definition reads from an answer",
		Long: `Check a file that declares a provider, and show what it asks for a symbol and
what it reads from the answer: from that of the service, or with --sample from
a file, without asking anyone. Nothing is stored, and no service of pricemill
is needed. With --frame it shows what the stream of the definition sends for
the symbol, and what it reads from a frame in a file, and with --page what its
history reads from a page of the past; no one is asked.

The key of the service is taken from NAME_API_KEY or NAME_API_KEY_FILE, and
NAME_BASE_URL leads to another host, where NAME is the provider's name.

An answer without a price is an error, which says what the answer means and
which rule of the definition says so. So is a frame that ends a stream.`,
		Example: "  pricemill provider test acme.yaml --symbol BTC-USD\n  pricemill provider test acme.yaml --sample answer.json\n" +
			"  pricemill provider test acme.yaml --sample limit.json --status 429\n" +
			"  pricemill provider test acme.yaml --frame frame.json\n  pricemill provider test acme.yaml --page page.json",
		Args: exactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			t.file = args[0]
			fields, err := t.run(c.Context(), a)
			if len(fields) > 0 {
				printing := a.print(output, fields, func(w io.Writer) {
					fmt.Fprintln(w, "FIELD\tVALUE\tFROM")
					for _, f := range fields {
						fmt.Fprintf(w, "%s\t%s\t%s\n", f.Name, orDash(oneLine(f.Value)), orDash(oneLine(f.From)))
					}
				})
				err = errors.Join(err, printing)
			}
			return err
		},
	}
	c.Flags().StringVar(&t.sample, "sample", "", "read this `file` as the answer")
	c.Flags().StringVar(&t.frame, "frame", "", "read this `file` as a frame of the stream")
	c.Flags().StringVar(&t.page, "page", "", "read this `file` as a page of the history")
	c.Flags().StringVar(&t.symbol, "symbol", "BTC-USD", "the symbol that is asked for, as clients name it")
	c.Flags().IntVar(&t.status, "status", http.StatusOK, "HTTP status `CODE` of the sample, 200 to 599")
	outputFlag(c, &output)
	return c
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// run returns what was asked and read, as far as that went.
func (t providerTest) run(ctx context.Context, a *app) ([]declared.Field, error) {
	d, err := readDefinition(t.file)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errUsage, t.file, err)
	}
	if by, is := providerList(pipeline.Providers()).takenNames()[string(d.Name())]; is {
		return nil, fmt.Errorf("%w: %s: the name %q is %s", errUsage, t.file, d.Name(), by)
	}
	symbol, err := schema.ParseSymbol(t.symbol)
	if err != nil {
		return nil, fmt.Errorf("%w: --symbol: %w", errUsage, err)
	}
	if err := within("--status", t.status, http.StatusOK, 599); err != nil {
		return nil, err
	}
	given := 0
	for _, file := range []string{t.sample, t.frame, t.page} {
		if file != "" {
			given++
		}
	}
	switch {
	case given > 1:
		return nil, fmt.Errorf("%w: --sample, --frame and --page: want one of them", errUsage)
	case t.frame != "":
		return t.runFrame(d, symbol)
	case t.page != "":
		return t.runPage(d, symbol)
	}
	fields, err := d.Asks(symbol)
	if err != nil {
		return nil, err
	}
	answer, err := t.answer(ctx, a, d, symbol)
	if err != nil {
		return fields, err
	}
	read, err := d.Reads(schema.QuoteFetched{Quote: schema.Quote{Provider: d.Name(), Symbol: symbol}, RawResponse: answer,
		ReceivedAt: schema.NewTime(time.Now())}, t.status)
	return append(fields, read...), err
}

// runFrame returns what the stream sends, and what is read from the frame.
func (t providerTest) runFrame(d *declared.Definition, symbol schema.Symbol) ([]declared.Field, error) {
	if !d.Streams() {
		return nil, fmt.Errorf("%w: --frame: %s declares no stream", errUsage, t.file)
	}
	frame, err := readAtMost(t.frame, schema.MaxRawResponse+1)
	if err != nil {
		return nil, fmt.Errorf("%w: --frame: %w", errUsage, err)
	}
	fields, err := d.Sends(symbol)
	if err != nil {
		return nil, err
	}
	read, err := d.ReadsFrame(bytes.TrimSpace(frame), symbol, schema.NewTime(time.Now()))
	return append(fields, read...), err
}

// runPage returns what the history asks, and what it reads from the page.
func (t providerTest) runPage(d *declared.Definition, symbol schema.Symbol) ([]declared.Field, error) {
	if !d.HasHistory() {
		return nil, fmt.Errorf("%w: --page: %s declares no history", errUsage, t.file)
	}
	page, err := readAtMost(t.page, schema.MaxRawResponse+1)
	if err != nil {
		return nil, fmt.Errorf("%w: --page: %w", errUsage, err)
	}
	fields, err := d.AsksHistory(symbol)
	if err != nil {
		return nil, err
	}
	read, err := d.ReadsPage(page, symbol)
	return append(fields, read...), err
}

// answer is that of the sample, or of the service.
func (t providerTest) answer(ctx context.Context, a *app, d *declared.Definition, symbol schema.Symbol) (schema.RawResponse, error) {
	if t.sample != "" {
		answer, err := readAtMost(t.sample, schema.MaxRawResponse+1)
		if err != nil {
			return nil, fmt.Errorf("%w: --sample: %w", errUsage, err)
		}
		return answer, nil
	}
	var wrong faults
	settings := map[string]any{}
	for _, s := range (providerList{d.Module()}).declaredSettings() {
		if value := a.fromEnvironment(s, &wrong); value != "" {
			settings[s.moduleKey()] = value
		}
	}
	if len(wrong) > 0 {
		return nil, fmt.Errorf("%w: %w", errUsage, errors.Join(wrong...))
	}
	p, err := d.New(pipeline.Env{Settings: settings, Version: releaseName(), Now: time.Now})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	return p.Quote(ctx, symbol)
}
