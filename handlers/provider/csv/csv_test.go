package csv_test

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/handlers/provider/csv"
	"github.com/pricemill/pricemill/handlers/provider/providertest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newReader(t testing.TB) pipeline.FileReader {
	t.Helper()
	p, err := csv.New(pipeline.Env{})
	require.NoError(t, err)
	return p.(pipeline.FileReader)
}

func TestNormalize(t *testing.T) {
	t.Parallel()
	providertest.Normalize(t, csv.Name, newReader(t))
}

func FuzzNormalize(f *testing.F) { providertest.FuzzNormalize(f, csv.Name, newReader(f)) }

func FuzzReadFile(f *testing.F) { providertest.FuzzReadFile(f, newReader(f), nil) }

func TestItCannotBeAsked(t *testing.T) {
	t.Parallel()
	_, err := newReader(t).Quote(t.Context(), "AAPL")
	var quoteErr *pipeline.QuoteError
	require.ErrorAs(t, err, &quoteErr)
	assert.Equal(t, schema.CodeNotConfigured, quoteErr.Code)
	_, err = csv.New(pipeline.Env{Settings: map[string]any{"delimiter": ";"}})
	require.ErrorContains(t, err, "delimiter")
}

// quoted is a row as the test expects it.
type quoted struct {
	line               int
	symbol, price, row string
	time               string
}

func TestReadFile(t *testing.T) {
	t.Parallel()
	const midnight = "2024-01-01T00:00:00Z"
	for name, test := range map[string]struct {
		file    string
		options map[string]string
		want    []quoted
		bad     []string
	}{
		"as exported by a spreadsheet": {
			file:    "\ufeffDate,\"Last, \"\"adjusted\"\"\",Ticker\r\n2024-01-01,\"1.50\",aapl\r\n\r\n2024-01-02, 2 ,BRK.B\r\n",
			options: map[string]string{csv.OptionTime: "Date", csv.OptionPrice: `Last, "adjusted"`, csv.OptionSymbol: "Ticker", csv.OptionFormat: "2006-01-02"},
			want: []quoted{{2, "aapl", "1.50", `2024-01-01,"1.50",aapl`, midnight},
				{4, "BRK.B", "2", "2024-01-02, 2 ,BRK.B", "2024-01-02T00:00:00Z"}},
		},
		"quoted line ends, no last line end": {
			file: "symbol,price,time,note\n\"A\",1," + midnight + ",\"one\r\ntwo\"\nB,2," + midnight + ",",
			want: []quoted{{2, "A", "1", "\"A\",1," + midnight + ",\"one\r\ntwo\"", midnight}, {4, "B", "2", "B,2," + midnight + ",", midnight}},
		},
		"no UTF-8": {
			file: "symbol,price,time,note\nA,1," + midnight + ",\xff",
			want: []quoted{{2, "A", "1", "A,1," + midnight + ",\xff", midnight}},
		},
		"seconds": {file: "symbol,price,time\nA,1,1704067200\nB,1,-1\nC,1,1.x\nD,1,253402300800\n", options: map[string]string{csv.OptionFormat: "unix"},
			want: []quoted{{2, "A", "1", "A,1,1704067200", midnight}, {3, "B", "1", "B,1,-1", "1969-12-31T23:59:59Z"}},
			bad:  []string{`line 4, column "time": reading time "1.x": not in seconds since 1970`, `line 5, column "time": reading time "253402300800"`}},
		"milliseconds": {file: "symbol,price,time\nA,1,1704067200000\nB,1,9223372036854775807\n", options: map[string]string{csv.OptionFormat: "unix_ms"},
			want: []quoted{{2, "A", "1", "A,1,1704067200000", midnight}}, bad: []string{`line 3, column "time"`}},
		"a zone": {file: "symbol,price,time\nA,1,2024-01-01 01:00:00.25 +0100\n", options: map[string]string{csv.OptionFormat: "2006-01-02 15:04:05 -0700"},
			want: []quoted{{2, "A", "1", "A,1,2024-01-01 01:00:00.25 +0100", "2024-01-01T00:00:00.25Z"}}},
		"bad rows between good ones": {
			file: "symbol,price,time\nA,1," + midnight + "\nB,1\"2," + midnight + "\nC,2\nD D,nan," + midnight + "\n,3," + midnight +
				"\nE,4,0001-01-01T00:00:00Z\nF,5," + midnight + "\n",
			want: []quoted{{2, "A", "1", "A,1," + midnight, midnight}, {8, "F", "5", "F,5," + midnight, midnight}},
			bad: []string{`line 3: bare " in non-quoted-field (at byte 4)`, "line 4: wrong number of fields", `line 5, column "price": bad_price`,
				`line 6, column "symbol": invalid symbol`, `line 7, column "time": required`},
		},
		"a row too large to keep": {
			file: "symbol,price,time,note\nA,1," + midnight + "," + strings.Repeat("x", schema.MaxRawResponse-80) + "\nB,2," + midnight + ",\n",
			want: []quoted{{3, "B", "2", "B,2," + midnight + ",", midnight}}, bad: []string{"line 2: the row makes 2"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newReader(t)
			lines, bad, last := providertest.FileLines(t, p, test.file, test.options)
			require.NoError(t, last)
			require.Equal(t, len(test.want), len(lines))
			for i, want := range test.want {
				prices, err := p.Normalize(lines[i].Quote)
				require.NoError(t, err)
				at, err := schema.ParseTime(want.time)
				require.NoError(t, err)
				assert.Equal(t, want.line, lines[i].Number)
				assert.Equal(t, []pipeline.Price{{Symbol: schema.Symbol(want.symbol), Price: schema.MustDecimal(want.price), Time: at}}, prices)
				assert.Equal(t, at, lines[i].Quote.ReceivedAt)
				assert.Equal(t, want.row, rowOf(t, lines[i].Quote), "byte for byte")
			}
			require.Len(t, bad, len(test.bad))
			for i, want := range test.bad {
				assert.ErrorContains(t, bad[i], want)
			}
		})
	}
}

// A row is the same fact in whatever file it is, and however its price is written.
func TestARowsIdentity(t *testing.T) {
	t.Parallel()
	const header = "symbol,price,time\n"
	lines, _, _ := providertest.FileLines(t, newReader(t), header+"A,1.5,2024-01-01T00:00:00Z\n"+
		"A,1.51,2024-01-01T00:00:00Z\nA,1.5,2024-01-01T00:00:01Z\nB,1.5,2024-01-01T00:00:00Z\n", nil)
	require.Len(t, lines, 4)
	again, _, _ := providertest.FileLines(t, newReader(t), header+"A,1.50,2024-01-01T01:00:00+01:00\n", nil)
	assert.Equal(t, lines[0].ID, again[0].ID)
	ids := map[string]bool{}
	for _, line := range lines {
		ids[line.ID] = true
	}
	assert.Len(t, ids, 4)
	assert.Equal(t, "e81e09e8-bfb7-8a35-afc0-01f26ebdcb68", lines[0].ID, "what was ingested once must be known forever")
}

func rowOf(t testing.TB, quote schema.QuoteFetched) string {
	t.Helper()
	var kept struct{ Row schema.RawResponse }
	require.NoError(t, json.Unmarshal(quote.RawResponse, &kept))
	return string(kept.Row)
}

func TestWrongFiles(t *testing.T) {
	t.Parallel()
	const header = "symbol,price,time\n"
	for name, test := range map[string]struct {
		file    string
		options map[string]string
		says    string
		option  bool
	}{
		"empty":            {says: "empty"},
		"no such role":     {file: header, options: map[string]string{csv.OptionColumns: "time=1,cost=2"}, says: `columns: "cost=2" is not one of symbol, price`, option: true},
		"a mark alone":     {file: "\ufeff", says: "empty"},
		"a broken header":  {file: "symbol,\"price\n", says: "header"},
		"no such column":   {file: header, options: map[string]string{csv.OptionTime: "date"}, says: `time-column: there is no column "date"; there are "symbol", "price", "time"`, option: true},
		"a column twice":   {file: "symbol,price,price,time\n", says: `two columns are named "price"`, option: true},
		"unknown option":   {file: header, options: map[string]string{"encoding": "latin1"}, says: `no option "encoding"`, option: true},
		"a format of C":    {file: header, options: map[string]string{csv.OptionFormat: "%Y-%m-%d"}, says: "reference time", option: true},
		"an empty format":  {file: header, options: map[string]string{csv.OptionFormat: ""}, says: "reference time", option: true},
		"a row of 300 KiB": {file: header + strings.Repeat("A", 300<<10), says: "a row of more than 262144 bytes"},
		"an open quote":    {file: header + "A,\"1\n" + strings.Repeat("A,1,2024-01-01T00:00:00Z\n", 20_000), says: "is a quote left open?"},
	} {
		lines, _, last := providertest.FileLines(t, newReader(t), test.file, test.options)
		assert.Empty(t, lines, name)
		require.ErrorContains(t, last, test.says, name)
		assert.Equal(t, test.option, errors.Is(last, pipeline.ErrOption), name)
	}
}

// Where reading fails in the middle of a row, the row is not what is wrong.
func TestReadingFails(t *testing.T) {
	t.Parallel()
	for _, cut := range []string{"", "B,", "B,2,2024-01-01T00:00:00Z", "B,\"2", "B,2\""} {
		file := io.MultiReader(strings.NewReader("symbol,price,time\nA,1,2024-01-01T00:00:00Z\n"+cut), iotest.ErrReader(io.ErrUnexpectedEOF))
		var quotes int
		var last error
		for line, err := range newReader(t).ReadFile(file, nil) {
			require.NoError(t, last, "something comes after the last error")
			if last = err; err == nil && line.ID != "" {
				quotes++
			}
		}
		assert.Equal(t, 1, quotes, cut)
		require.ErrorIs(t, last, io.ErrUnexpectedEOF, cut)
		assert.ErrorContains(t, last, "after line 2", cut)
	}
}

// Whatever options a file is read with, they are refused, or what is read keeps a
// provider's duties.
func FuzzOptions(f *testing.F) {
	for _, seed := range [][5]string{
		{"symbol", "price", "time", "unix", "symbol,price,time\nA,1,1700000000\n"}, {"symbol", "price", "time", "unix_ms", "symbol,price,time\nA,1,-1\n"},
		{"s", "p", "t", "Jan 2 2006", "s,t,p\nA,Jun 1 2000,2.5\n"}, {"s", "s", "s", "Mon", "s\nA\n"}, {"", "", "", "", ""},
		{"s", "p", "t", "15:04 MST", "s,p,t\nA,1,07:00 XYZ\n"}, {"s", "p", "t", "_2 .000000000", "s,p,t\nA,1,1 .5\n"},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3], seed[4])
	}
	p := newReader(f)
	f.Fuzz(func(t *testing.T, symbol, price, time, format, file string) {
		providertest.FileLines(t, p, file, map[string]string{csv.OptionSymbol: symbol, csv.OptionPrice: price, csv.OptionTime: time, csv.OptionFormat: format})
	})
}
