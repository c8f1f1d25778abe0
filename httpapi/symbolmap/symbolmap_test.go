package symbolmap_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/httpapi/symbolmap"
	"github.com/pricemill/pricemill/schema"
)

var providers = symbolmap.Providers{Known: []schema.Provider{"finnhub", "yahoo", "simulated", "csv"}, Aliases: map[string]schema.Provider{"yahoo_finance": "yahoo"},
	Simulated: []schema.Provider{"simulated"}, CaseSensitive: []schema.Provider{"csv"}}

func TestRead(t *testing.T) {
	t.Parallel()
	m, err := symbolmap.Read([]byte(`
instruments:
  - name: Bitcoin
    currency: USD
    class: crypto
    members: ["finnhub:BINANCE:BTCUSD", yahoo_finance:btc-usd, csv:Xbt]
  - name: AAPL
    members: [yahoo:AAPL, finnhub:AAPL]
  - name: ONE
    members: [yahoo:SAME]
  - name: TWO
    members: [finnhub:SAME]
`), providers)
	require.NoError(t, err)
	assert.Equal(t, 4, m.Len())
	want := symbolmap.Instrument{Name: "BITCOIN", Currency: "USD", Class: "crypto",
		Members: []symbolmap.Member{{Provider: "finnhub", Symbol: "BINANCE:BTCUSD"}, {Provider: "yahoo", Symbol: "BTC-USD"}, {Provider: "csv", Symbol: "Xbt"}}}
	for _, asked := range []schema.Symbol{"Bitcoin", "BITCOIN", "BINANCE:BTCUSD", "btc-usd", "XBT"} {
		found, err := m.Find(asked)
		require.NoError(t, err, asked)
		assert.Equal(t, want, found, asked)
	}
	_, err = m.Find("SAME")
	require.ErrorIs(t, err, symbolmap.ErrAmbiguous)
	require.ErrorContains(t, err, "ONE, TWO")
	_, err = m.Find("MSFT")
	require.ErrorIs(t, err, symbolmap.ErrNone)
	assert.EqualValues(t, "BITCOIN", m.Of("csv", "Xbt"))
	assert.Empty(t, m.Of("csv", "XBT"), "another instrument, where case counts")

	for _, empty := range []string{"", "# nothing\n", "instruments: []\n"} {
		m, err := symbolmap.Read([]byte(empty), providers)
		require.NoError(t, err, empty)
		assert.Zero(t, m.Len())
	}
	var none *symbolmap.Map
	_, err = none.Find("AAPL")
	require.ErrorIs(t, err, symbolmap.ErrNone)
	assert.Empty(t, none.Of("yahoo", "AAPL"))
	assert.Zero(t, none.Len())
}

func TestWhatIsWrongWithAFile(t *testing.T) {
	t.Parallel()
	one := func(rest string) string { return "instruments:\n  - name: A\n" + rest }
	many := strings.Repeat("yahoo:A, ", symbolmap.MaxMembers) + "yahoo:B"
	for name, test := range map[string]struct{ file, want string }{
		"no YAML":             {"a: [", "line 1"},
		"another field":       {one("    memers: [yahoo:A]\n"), "line 3: field memers not found in entry"},
		"another section":     {"symbols: []\n", "line 1: field symbols not found in file"},
		"a field twice":       {one("    name: B\n"), "already defined"},
		"another type":        {"instruments: yes\n", "line 1"},
		"two documents":       {"instruments: []\n---\ninstruments: []\n", "more than one YAML document"},
		"no name":             {"instruments:\n  - members: [yahoo:A]\n", `instrument 1 (): name: invalid symbol ""`},
		"a name that is none": {"instruments:\n  - name: 'a|b'\n    members: [yahoo:A]\n", `name: invalid symbol "a|b"`},
		"no members":          {one(""), "instrument A: it has 0 members, and may have 1 to 32"},
		"too many members":    {one("    members: [" + many + "]\n"), "members: 33 of them, and at most 32 are allowed"},
		"no provider":         {one("    members: [AAPL]\n"), `member "AAPL": want provider:symbol`},
		"unknown provider":    {one("    members: [yaho:AAPL]\n"), `there is no provider "yaho"; did you mean "yahoo"?`},
		"a view":              {one("    members: [median:AAPL]\n"), `there is no provider "median"`},
		"no symbol":           {one("    members: ['yahoo:']\n"), `member "yahoo:": invalid symbol`},
		"a currency":          {one("    currency: dollars\n    members: [yahoo:A]\n"), `currency: "dollars" is not like USD`},
		"a class":             {one("    class: Big Tech\n    members: [yahoo:A]\n"), `class: "Big Tech" is not like equity`},
		"a member twice":      {one("    members: [yahoo:a, yahoo_finance:A]\n"), "it has the member yahoo:A twice"},
		"a member of two":     {one("    members: [yahoo:A]\n  - name: B\n    members: [yahoo:A]\n"), "instrument B: the member yahoo:A is one of A already"},
		"a name twice":        {one("    members: [yahoo:A]\n  - name: a\n    members: [yahoo:B]\n"), "instrument A: there are two of this name"},
		"a name of a symbol":  {one("    members: [yahoo:B]\n  - name: B\n    members: [yahoo:C]\n"), "instrument B: a member of A has this symbol"},
		"made-up prices":      {one("    members: [yahoo:A, simulated:A]\n"), "simulated prices are made up"},
		"too large":           {strings.Repeat("#", symbolmap.MaxFile+1), "larger than"},
	} {
		_, err := symbolmap.Read([]byte(test.file), providers)
		if assert.Error(t, err, name) {
			assert.Contains(t, err.Error(), test.want, name)
		}
	}
	var all strings.Builder
	all.WriteString("instruments:\n")
	for i := range symbolmap.MaxInstruments + 1 {
		fmt.Fprintf(&all, "- {name: A%d, members: [yahoo:A%d]}\n", i, i)
	}
	_, err := symbolmap.Read([]byte(all.String()), providers)
	require.ErrorContains(t, err, "at most 10000 are allowed")

	_, err = symbolmap.Read([]byte(one("    currency: x\n    members: [bloomberg:A, yahoo]\n")), providers)
	for _, want := range []string{"currency", "bloomberg", `"yahoo": want provider:symbol`} {
		assert.ErrorContains(t, err, want, "all faults are named")
	}
}

// Whatever a file holds, a map that is made of it has each member in one instrument, finds
// each by its name, and is within its bounds.
func FuzzRead(f *testing.F) {
	f.Add("instruments:\n  - name: A\n    currency: USD\n    members: [yahoo:A, finnhub:X:A]\n")
	f.Add("a: &a [*a]")
	f.Add("instruments: [{name: A, members: [csv:a, csv:A]}, {name: B, members: [yahoo:a]}]")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := symbolmap.Read([]byte(text), providers)
		if err != nil {
			if m != nil {
				t.Fatal("a map with an error")
			}
			return
		}
		seen := map[symbolmap.Member]bool{}
		for _, i := range m.All() {
			found, err := m.Find(i.Name)
			if err != nil || found.Name != i.Name || len(i.Members) == 0 || len(i.Members) > symbolmap.MaxMembers {
				t.Fatalf("%v: %v, %v", i, found, err)
			}
			for _, member := range i.Members {
				if seen[member] || m.Of(member.Provider, member.Symbol) != i.Name {
					t.Fatalf("%v of %v", member, i)
				}
				seen[member] = true
			}
		}
	})
}
