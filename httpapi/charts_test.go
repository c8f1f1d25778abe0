package httpapi_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/schema"
)

const (
	svgPath = "/api/v1/prices/chart.svg"
	pngPath = "/api/v1/prices/chart.png"
	// numbersPath has the numbers of the picture at svgPath.
	numbersPath = "/api/v1/prices/chart.json"
)

// drawnPrices is an API that knows five prices of a symbol.
func drawnPrices(t *testing.T) *httpapi.API {
	return newAPI(t, func(s *setup) {
		s.Prices = past(5)
		s.Simulated = []schema.Provider{"simulated"}
	})
}

// texts are those of the text elements of an SVG, which must be well formed.
func texts(t *testing.T, svg []byte) []string {
	t.Helper()
	var all []string
	decoder := xml.NewDecoder(bytes.NewReader(svg))
	for inText := false; ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%v in %s", err, svg)
		}
		switch one := token.(type) {
		case xml.StartElement:
			if inText = one.Name.Local == "text"; inText {
				all = append(all, "")
			}
		case xml.EndElement:
			inText = false
		case xml.CharData:
			if inText {
				all[len(all)-1] += string(one)
			}
		}
	}
}

func TestChartIsAnSVG(t *testing.T) {
	t.Parallel()
	api := drawnPrices(t)
	for _, kind := range []string{"line", "candles"} {
		target := svgPath + "?symbol=AAPL&interval=1s&indicators=average,bands&window=3&theme=dark&width=400&height=240&kind=" + kind
		w := get(t, api, target)
		if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "image/svg+xml" {
			t.Fatalf("%d %s %s", w.Code, w.Header().Get("Content-Type"), w.Body)
		}
		found := strings.Join(texts(t, w.Body.Bytes()), "|")
		for _, want := range []string{"AAPL", "finnhub · 1s · UTC", "Average 3", "bands 1m 2", "14:30:0"} {
			if !strings.Contains(found, want) {
				t.Errorf("%s: no %q in %s", kind, want, found)
			}
		}
		if !strings.Contains(w.Body.String(), `<svg xmlns="http://www.w3.org/2000/svg"`) || !strings.Contains(w.Body.String(), `width="400" height="240"`) {
			t.Errorf("%s begins with %.200s", kind, w.Body)
		}
		if again := get(t, api, target); again.Body.String() != w.Body.String() {
			t.Errorf("%s: the same chart is other bytes", kind)
		}
		if again := get(t, api, target, "If-None-Match", w.Header().Get("ETag")); again.Code != http.StatusNotModified {
			t.Errorf("%s: %d with its ETag", kind, again.Code)
		}
	}
}

func TestChartIsAPNG(t *testing.T) {
	t.Parallel()
	w := get(t, drawnPrices(t), pngPath+"?symbol=AAPL&width=300&height=200&kind=candles&interval=1s")
	image, err := png.Decode(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	if size := image.Bounds().Size(); size.X != 300 || size.Y != 200 {
		t.Errorf("the picture is of %v", size)
	}
}

func TestChartEscapesSymbols(t *testing.T) {
	t.Parallel()
	w := get(t, drawnPrices(t), svgPath+"?symbol=AT%26T%23")
	if found := texts(t, w.Body.Bytes()); found[0] != "AT&T#" && !strings.Contains(strings.Join(found, "|"), "AT&T#") {
		t.Errorf("the title is not among %q", found)
	}
}

func TestChartWithoutPrices(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	w := get(t, api, svgPath+"?symbol=AAPL")
	if found := strings.Join(texts(t, w.Body.Bytes()), "|"); !strings.Contains(found, "No prices in this period") {
		t.Errorf("it says %s", found)
	}
	if w := get(t, api, pngPath+"?symbol=AAPL&kind=candles"); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestChartSaysThatPricesAreSimulated(t *testing.T) {
	t.Parallel()
	w := get(t, newAPI(t, func(s *setup) {
		s.Prices = past(5)
		s.Simulated = []schema.Provider{"yahoo"}
	}), svgPath+"?symbol=AAPL&provider=yahoo")
	if found := strings.Join(texts(t, w.Body.Bytes()), "|"); !strings.Contains(found, "simulated") || w.Header().Get(httpapi.HeaderSimulated) != "true" {
		t.Errorf("%v, it says %s", w.Header(), found)
	}
}

func TestChartsThatAreRefused(t *testing.T) {
	t.Parallel()
	api := drawnPrices(t)
	for query, status := range map[string]int{
		"":                        http.StatusUnprocessableEntity,
		"symbol=A&interval=2m":    http.StatusUnprocessableEntity,
		"symbol=A&interval=":      http.StatusUnprocessableEntity,
		"symbol=A&kind=pie":       http.StatusUnprocessableEntity,
		"symbol=A&theme=blue":     http.StatusUnprocessableEntity,
		"symbol=A&width=239":      http.StatusUnprocessableEntity,
		"symbol=A&height=1601":    http.StatusUnprocessableEntity,
		"symbol=A&indicators=":    http.StatusUnprocessableEntity,
		"symbol=A&indicators=a,":  http.StatusUnprocessableEntity,
		"symbol=A&window=1001":    http.StatusUnprocessableEntity,
		"symbol=A&colour=red":     http.StatusUnprocessableEntity,
		"symbol=A&indicators=rsi": http.StatusNotFound,
		"symbol=A&provider=none":  http.StatusBadRequest,
		"symbol=A&from=2025-06-16T00:00:00Z&to=2025-06-15T00:00:00Z": http.StatusUnprocessableEntity,
		"symbol=A&indicators=" + strings.Repeat("a", 201):            http.StatusUnprocessableEntity,
	} {
		for _, path := range []string{svgPath, pngPath, numbersPath} {
			if w := get(t, api, path+"?"+query); w.Code != status {
				t.Errorf("%s?%s: %d %s, want %d", path, query, w.Code, w.Body, status)
			}
		}
	}
}

// TestChartInNumbers: the bars and lines of the picture, to the digit, one value a bar, and
// where the picture of that size has them.
func TestChartInNumbers(t *testing.T) {
	t.Parallel()
	api := drawnPrices(t)
	const query = "?symbol=AAPL&interval=1s&indicators=average,bands&window=3&kind=candles&width=400&height=240"
	w := get(t, api, numbersPath+query)
	var got struct {
		Symbol, Provider, Interval string
		Bars                       []struct {
			Start                  string
			Open, High, Low, Close json.Number
			Volume                 *json.Number
		}
		Lines []struct {
			Name   string
			Values []*json.Number
		}
		Plot struct {
			Left, Right, Top, Bottom, End, Low, High float64
			Slots                                    int
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d %v %s", w.Code, err, w.Body)
	}
	if got.Symbol != "AAPL" || got.Provider != "finnhub" || got.Interval != "1s" || len(got.Bars) != 5 {
		t.Fatalf("%+v", got)
	}
	history := get(t, api, "/api/v1/prices/history?symbol=AAPL").Body.String()
	for _, b := range got.Bars {
		if !strings.Contains(history, `"price":`+b.Close.String()+",") || b.Open != b.Close || b.High != b.Low || b.Volume != nil {
			t.Errorf("a bar of one price is %+v, the prices %s", b, history)
		}
	}
	var names []string
	for _, line := range got.Lines {
		names = append(names, line.Name)
	}
	if got := strings.Join(names, "|"); got != "Average 3|bands 1m 2 upper|bands 1h 2 upper|bands 1d 2 upper" {
		t.Errorf("lines %s", got)
	}
	for _, line := range got.Lines {
		if len(line.Values) != len(got.Bars) {
			t.Errorf("%s has %d values for %d bars", line.Name, len(line.Values), len(got.Bars))
		}
	}
	p := got.Plot
	if p.Left < 0 || p.Right <= p.Left || p.Right >= 400 || p.Top >= p.Bottom || p.End < p.Bottom || p.End >= 240 || p.Slots < 5 || p.Low >= p.High {
		t.Errorf("plot %+v", p)
	}

	none := get(t, newAPI(t, nil), numbersPath+"?symbol=AAPL")
	if body := none.Body.String(); none.Code != http.StatusOK || !strings.Contains(body, `"bars":[],"lines":[]`) || strings.Contains(body, "plot") {
		t.Errorf("%d %s", none.Code, body)
	}
}
