package csv

import (
	"slices"
	"strconv"
	"strings"

	"github.com/pricemill/pricemill/schema"
)

// preset is how the files of one service are read.
type preset struct {
	name string
	// headers are what the header holds of files of this service and of no
	// other, in lower case; more columns may come between. None: the header does
	// not tell.
	headers [][]string
	// fits tells files by more than that: by all names of the header, as written,
	// or by rows of a file without one.
	fits func(header []string) bool
	rows func(row []string) bool
	// sure says that rows that fit can be those of no other service; else they
	// make a hint.
	sure bool
	// options are those of its files. The name of a column may be one of several,
	// with a | between; one that starts with ? may be absent.
	options options
}

// headerless are the options of a file without a header.
func headerless(columns string, more options) options {
	o := options{OptionNoHeader: "true", OptionColumns: columns}
	for name, value := range more {
		o[name] = value
	}
	return o
}

const (
	klines   = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
	usDate   = "01/02/2006"
	nothings = "NaN,null,.,N/A,-,#N/A"
)

// presets are tried in this order.
var presets = []preset{
	{name: "yahoo", headers: [][]string{{"date", "open", "close", "adj close"}, {"date", "close", "dividends", "stock splits"},
		{"datetime", "open", "close", "adj close"}, {"datetime", "close", "dividends", "stock splits"}, {"date", "close*", "adj close**"}},
		options: options{OptionPrice: "close|close*", OptionTime: "date|datetime", OptionMissing: nothings}},
	{name: "yfinance", fits: isYfinance, options: options{OptionPrice: "Close", OptionMissing: nothings}},
	{name: "stooq", headers: [][]string{{"<ticker>", "<per>", "<date>", "<close>"}, {"data", "otwarcie", "zamkniecie"}},
		options: options{OptionSymbol: "?<ticker>", OptionPrice: "close|<close>|zamkniecie", OptionDate: "?<date>|date|data", OptionTime: "?<time>|time"}},
	{name: "cryptodatadownload", headers: [][]string{{"unix", "date", "symbol", "close"}, {"unix timestamp", "date", "symbol", "close"}},
		options: options{OptionSymbol: "symbol", OptionPrice: "close", OptionTime: "unix|unix timestamp|date"}},
	{name: "binance-klines", headers: [][]string{{"open_time", "open", "high", "low", "close", "close_time"}},
		rows: isKline, sure: true, options: headerless(klines, options{OptionPrice: "close", OptionTime: "close_time"})},
	{name: "binance-aggtrades", headers: [][]string{{"agg_trade_id", "price", "quantity", "transact_time"}},
		rows: isAggTrade, sure: true, options: headerless("agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker,is_best_match",
			options{OptionTime: "transact_time", OptionSize: "quantity", OptionID: "agg_trade_id"})},
	{name: "binance-trades", headers: [][]string{{"id", "price", "qty", "quote_qty", "time", "is_buyer_maker"}, {"id", "price", "qty", "base_qty", "time", "is_buyer_maker"}},
		rows: isBinanceTrade, sure: true, options: headerless("id,price,qty,quote_qty,time,is_buyer_maker,is_best_match",
			options{OptionTime: "time", OptionSize: "qty", OptionID: "id"})},
	{name: "kraken-trades", rows: isKrakenTrade, options: headerless("time,price,volume", options{OptionSize: "volume", OptionFormat: "unix"})},
	{name: "kraken-ohlcvt", rows: isKrakenBar, options: headerless("time,open,high,low,close,volume,trades", options{OptionPrice: "close", OptionFormat: "unix"})},
	{name: "bybit", headers: [][]string{{"timestamp", "symbol", "side", "size", "price", "trdmatchid"}},
		options: options{OptionSymbol: "symbol", OptionTime: "timestamp", OptionSize: "size", OptionID: "trdMatchID"}},
	{name: "bybit-spot", headers: [][]string{{"id", "timestamp", "price", "volume", "side"}},
		options: options{OptionTime: "timestamp", OptionSize: "volume"}},
	{name: "kaggle-btc", headers: [][]string{{"timestamp", "close", "volume_(btc)", "volume_(currency)"}},
		options: options{OptionPrice: "close", OptionTime: "timestamp", OptionFormat: "unix", OptionBars: "1m", OptionMissing: nothings}},
	{name: "ecb", fits: isECB, options: options{OptionWide: "true", OptionTime: "date", OptionMissing: nothings}},
	{name: "ecb-portal", headers: [][]string{{"currency", "currency_denom", "time_period", "obs_value"}},
		options: options{OptionSymbol: "currency", OptionPrice: "obs_value", OptionTime: "time_period", OptionMissing: nothings}},
	{name: "metatrader", headers: [][]string{{"<date>", "<open>", "<high>", "<low>", "<close>"}, {"<date>", "<time>", "<bid>", "<ask>"}},
		options: options{OptionPrice: "<close>|<bid>", OptionDate: "<date>", OptionTime: "?<time>", OptionMissing: nothings}},
	{name: "metatrader4", rows: isMetaTrader4, sure: true, options: headerless("date,time,open,high,low,close,ticks", options{OptionPrice: "close", OptionDate: "date"})},
	{name: "investing", headers: [][]string{{"date", "price", "open", "high", "low", "change %"}},
		options: options{OptionPrice: "price", OptionTime: "date", OptionThousands: ",", OptionMissing: nothings}},
	{name: "investing-de", headers: [][]string{{"datum", "zuletzt", "eröffn.", "hoch", "tief"}},
		options: options{OptionPrice: "zuletzt", OptionTime: "datum", OptionThousands: ".", OptionDecimal: ",", OptionMissing: nothings}},
	{name: "fred", fits: isFRED, options: options{OptionWide: "true", OptionTime: "observation_date|date", OptionMissing: nothings}},
	{name: "shiller", headers: [][]string{{"date", "sp500", "dividend", "earnings"}},
		options: options{OptionPrice: "sp500", OptionTime: "date", OptionMissing: nothings}},
	{name: "shiller-yale", headers: [][]string{{"date", "p", "d", "e", "cpi"}},
		options: options{OptionPrice: "p", OptionTime: "date", OptionFormat: "year.month", OptionMissing: nothings}},
	{name: "nasdaq", headers: [][]string{{"date", "close/last", "volume"}},
		options: options{OptionPrice: "close/last", OptionTime: "date", OptionFormat: usDate, OptionCurrency: "$", OptionThousands: ",", OptionMissing: nothings}},
	{name: "polygon", headers: [][]string{{"ticker", "close", "window_start"}}, options: options{OptionSymbol: "ticker", OptionPrice: "close", OptionTime: "window_start"}},
	{name: "polygon-trades", headers: [][]string{{"ticker", "price", "size", "sip_timestamp"}},
		options: options{OptionSymbol: "ticker", OptionTime: "sip_timestamp", OptionSize: "size"}},
	{name: "dukascopy", headers: [][]string{{"gmt time", "open", "close"}, {"utc", "open", "close"}},
		options: options{OptionPrice: "close", OptionTime: "gmt time|utc"}},
}

// PresetNames are those of OptionPreset.
func PresetNames() (names []string) {
	for _, p := range presets {
		names = append(names, p.name)
	}
	return names
}

func presetNamed(name string) *preset {
	for i := range presets {
		if presets[i].name == name {
			return &presets[i]
		}
	}
	return nil
}

// ofHeader finds the preset of a header that is certain.
func ofHeader(header []string) *preset {
	lower := make([]string, len(header))
	for i, name := range header {
		lower[i] = strings.ToLower(strings.TrimSpace(name))
	}
	for i := range presets {
		p := &presets[i]
		if p.fits != nil && p.fits(header) {
			return p
		}
		for _, wanted := range p.headers {
			if !slices.ContainsFunc(wanted, func(name string) bool { return !slices.Contains(lower, name) }) {
				return p
			}
		}
	}
	return nil
}

// ofRows finds the preset of the rows of a file without a header.
func ofRows(rows [][]string) *preset {
	for i := range presets {
		p := &presets[i]
		if p.rows != nil && len(rows) > 0 && !slices.ContainsFunc(rows, func(row []string) bool { return !p.rows(row) }) {
			return p
		}
	}
	return nil
}

// isECB: dates and rates of currencies.
func isECB(header []string) bool {
	currencies := 0
	for i, name := range header {
		name = strings.TrimSpace(name)
		switch {
		case i == 0 && !strings.EqualFold(name, "date"):
			return false
		case i > 0 && len(name) == 3 && strings.ToUpper(name) == name && name >= "AAA":
			currencies++
		case i > 0 && name != "":
			return false
		}
	}
	return currencies >= 5 && slices.ContainsFunc(header, func(name string) bool { return strings.TrimSpace(name) == "USD" })
}

// isFRED: dates, and series by their names.
func isFRED(header []string) bool {
	return len(header) >= 2 && header[0] == "observation_date" ||
		len(header) == 2 && header[0] == "DATE" && header[1] == strings.ToUpper(header[1]) && len(header[1]) > 1 && !slices.Contains([]string{"PRICE", "CLOSE", "LAST"}, header[1])
}

// isYfinance: names of fields in one line, tickers in the next.
func isYfinance(header []string) bool {
	if len(header) < 2 {
		return false
	}
	rest := header[1:]
	switch header[0] {
	case "Price":
		return slices.Contains(rest, "Close")
	case "Ticker":
		return true
	case "":
		return slices.Contains(rest, "Close") && slices.Contains(rest, "Volume")
	}
	return false
}

func isEpoch(text string) bool {
	whole, fraction, _ := strings.Cut(text, ".")
	n, err := strconv.ParseInt(whole, 10, 64)
	_, plausible := unitOf(n)
	return err == nil && plausible && allDigits(fraction)
}

func isNumber(texts ...string) bool {
	for _, text := range texts {
		if _, _, err := schema.RoundDecimal(text); err != nil {
			return false
		}
	}
	return true
}

func isWhole(texts ...string) bool {
	for _, text := range texts {
		if text == "" || !allDigits(strings.TrimPrefix(text, "-")) {
			return false
		}
	}
	return true
}

func isFlag(text string) bool {
	return strings.EqualFold(text, "true") || strings.EqualFold(text, "false")
}

func isKline(row []string) bool {
	return len(row) == 12 && isEpoch(row[0]) && isEpoch(row[6]) && isWhole(row[0], row[6], row[8]) && isNumber(row[1:6]...) &&
		len(row[0]) == len(row[6]) && row[0] < row[6]
}

func isAggTrade(row []string) bool {
	return (len(row) == 8 && isFlag(row[7]) || len(row) == 7) && isWhole(row[0], row[3], row[4]) && isNumber(row[1], row[2]) && isEpoch(row[5]) && isFlag(row[6])
}

func isBinanceTrade(row []string) bool {
	return (len(row) == 7 && isFlag(row[6]) || len(row) == 6) && isWhole(row[0]) && isNumber(row[1:4]...) && isEpoch(row[4]) && isFlag(row[5])
}

// isSecond: Kraken counts seconds.
func isSecond(text string) bool {
	whole, _, _ := strings.Cut(text, ".")
	return isEpoch(text) && len(whole) <= 10
}

func isKrakenTrade(row []string) bool {
	return len(row) == 3 && isSecond(row[0]) && isNumber(row[1:]...)
}

func isKrakenBar(row []string) bool {
	return len(row) == 7 && isSecond(row[0]) && isNumber(row[1:6]...) && isWhole(row[6])
}

func isMetaTrader4(row []string) bool {
	return len(row) == 7 && len(row[0]) == len("2018.01.02") && row[0][4] == '.' && strings.Contains(row[1], ":") && isNumber(row[2:]...)
}
