package browser_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

const symbolPath = "/dashboard/symbol?symbol=ACME&provider=simulated"

var pages = map[string]string{"watchlist": "/", "symbol": symbolPath,
	"candles":  symbolPath + "&kind=candles&interval=10s&lines=ema&lines=bollinger&chosen=yes",
	"pipeline": "/dashboard/pipeline", "jobs": "/dashboard/jobs", "failure": "/dashboard/symbol", "nothing": "/dashboard/symbol?symbol=NOTHING"}

func TestDashboard(t *testing.T) {
	s := startService(t)
	browser := newBrowser(t)

	// Every page loads without a message on the console or a request to another host,
	// is no wider than the window, and is legible in both themes.
	for _, theme := range []string{"light", "dark"} {
		for _, width := range []int64{400, 1280} {
			t.Run(fmt.Sprintf("%s at %d", theme, width), func(t *testing.T) {
				p := openTab(t, browser, s, width, theme, true)
				for name, path := range pages {
					p.open(s.url + path)
					if wide := value[int64](p, "document.documentElement.scrollWidth"); wide > width {
						t.Errorf("%s is %d pixels wide", name, wide)
					}
					if dark := value[bool](p, "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every(c => c < 80)"); dark != (theme == "dark") {
						t.Errorf("%s: dark is %t", name, dark)
					}
					if broken := value[int](p, "[...document.images].filter(i => i.complete && !i.naturalWidth).length"); broken > 0 {
						t.Errorf("%s: %d pictures are broken", name, broken)
					}
					if low := value[string](p, lowContrast); low != "" {
						t.Errorf("%s: low contrast: %s", name, low)
					}
					if nameless := value[string](p, namelessControls); nameless != "" {
						t.Errorf("%s: without a name for screen readers: %s", name, nameless)
					}
					for _, finding := range p.axe() {
						t.Errorf("%s: axe-core: %s", name, finding)
					}
					p.keep(fmt.Sprintf("%s-%s-%d", name, theme, width))
					if name == "failure" { // whose status the console tells
						p.faults = nil
					}
					p.check(name)
				}
			})
		}
	}

	t.Run("live", func(t *testing.T) {
		p := openTab(t, browser, s, 1280, "light", true)
		p.open(s.url + "/")
		const price = `document.querySelector("[data-symbol=ACME] [data-live=price]").textContent`
		before := value[string](p, price)
		s.eventually("the price of the watch list moves", func() bool { return value[string](p, price) != before })
		p.open(s.url + symbolPath)
		before = value[string](p, price)
		chart := value[string](p, "document.querySelector('#chart img').currentSrc")
		s.eventually("the price of the symbol moves", func() bool { return value[string](p, price) != before })
		s.eventually("the chart is drawn again", func() bool {
			return value[string](p, "document.querySelector('#chart img').currentSrc") != chart
		})
		if state := value[string](p, "document.getElementById('connection').dataset.state"); state != "live" && state != "polling" {
			t.Errorf("the connection is %s", state)
		}
		p.check("live")
	})

	t.Run("paint", func(t *testing.T) {
		p := openTab(t, browser, s, 1280, "light", true)
		p.open(s.url + "/")
		p.open(s.url + "/")
		s.eventually("it has painted", func() bool { return value[int](p, "performance.getEntriesByName('first-contentful-paint').length") > 0 })
		t.Logf("first contentful paint after %.0f ms", value[float64](p, "performance.getEntriesByName('first-contentful-paint')[0].startTime"))
	})

	t.Run("without JavaScript", func(t *testing.T) {
		p := openTab(t, browser, s, 1280, "light", false)
		for _, path := range []string{"/", symbolPath, "/dashboard/pipeline", "/dashboard/jobs"} {
			p.open(s.url + path)
			var text string
			p.run(chromedp.Text("main", &text, chromedp.ByQuery))
			for _, want := range map[string][]string{"/": {"ACME", "AT&T"}, symbolPath: {"ACME", "History"}, "/dashboard/pipeline": {"price-events", "normalize"}, "/dashboard/jobs": {"poll_", "New job"}}[path] {
				if !strings.Contains(text, want) {
					t.Errorf("%s: no %q in %s", path, want, text)
				}
			}
		}
		p.open(s.url + symbolPath)
		p.run(chromedp.SetValue("select[name=interval]", "10s", chromedp.ByQuery), chromedp.Click("form.controls button", chromedp.ByQuery),
			chromedp.WaitReady("option[value='10s'][selected]", chromedp.ByQuery))
		p.check("without JavaScript")
	})

	t.Run("a job is created and stopped", func(t *testing.T) {
		p := openTab(t, browser, s, 1280, "light", false)
		p.open(s.url + "/dashboard/jobs")
		p.run(chromedp.SendKeys("input[name=symbols]", "INITECH", chromedp.ByQuery), chromedp.Click("button[value=create-job]", chromedp.ByQuery),
			chromedp.WaitVisible(".notice", chromedp.ByQuery))
		s.eventually("the job is listed", func() bool {
			_, body := s.get("/api/v1/prices/poll", "")
			return strings.Contains(body, "INITECH")
		})
		p.open(s.url + "/dashboard/jobs")
		p.run(chromedp.Click("button[value=stop-job]", chromedp.ByQuery), chromedp.WaitVisible(".notice", chromedp.ByQuery))
		s.eventually("the job is stopped", func() bool {
			_, body := s.get("/api/v1/prices/poll", "")
			return strings.Contains(body, `"status":"stopped"`)
		})
		p.check("jobs")
	})
}

// TestRebuildIsPromoted by the buttons of the page alone, then rolled back.
func TestRebuildIsPromoted(t *testing.T) {
	s := startService(t)
	p := openTab(t, newBrowser(t), s, 1280, "light", false)
	const page = "/dashboard/pipeline"
	rebuild := func(state string) func() bool {
		return func() bool {
			_, body := s.get("/api/v1/rebuilds", "")
			return strings.Contains(body, `"state":"`+state+`"`)
		}
	}
	press := func(button string) {
		p.open(s.url + page)
		p.run(chromedp.Click("button[value="+button+"]", chromedp.ByQuery), chromedp.WaitVisible(".notice", chromedp.ByQuery))
	}
	p.open(s.url + page)
	p.run(chromedp.SetValue("select[name=projection]", "latest-prices", chromedp.ByQuery))
	p.run(chromedp.Click("button[value=start-rebuild]", chromedp.ByQuery), chromedp.WaitVisible(".notice", chromedp.ByQuery))
	s.eventually("the rebuild is proven", rebuild("ready"))
	press("promote-rebuild")
	s.eventually("the rebuild is promoted", rebuild("promoted"))
	press("roll-back-rebuild")
	s.eventually("the rebuild is rolled back", rebuild("rolled_back"))
	p.check("rebuild")
}

// TestDemo: with nothing configured, a price is on the page within five seconds of the
// start, is marked as simulated, and moves.
func TestDemo(t *testing.T) {
	browser := newBrowser(t)
	began := time.Now()
	s := launch(t, "DEMO=auto")
	p := openTab(t, browser, s, 1280, "light", true)
	const price = `document.querySelector("[data-symbol=ACME] [data-live=price]")?.textContent ?? ""`
	s.eventually("there is a price", func() bool {
		p.open(s.url + "/")
		return value[string](p, price) != ""
	})
	t.Logf("a price is on the page %.1f s after the start", time.Since(began).Seconds())
	first := value[string](p, price)
	s.eventually("it moves", func() bool { return value[string](p, price) != first })
	s.eventually("the page is live", func() bool { return value[string](p, "document.getElementById('connection').textContent") == "Live" })
	if text := value[string](p, "document.querySelector('[data-symbol=ACME]').textContent"); !strings.Contains(text, "simulated") {
		t.Errorf("not marked as simulated: %s", text)
	}
	p.check("demo")
	// With PRICEMILL_TEST_DEMO_PRICES it first waits until there are as many, for pictures
	// that show more than a few seconds.
	if wanted, err := strconv.Atoi(os.Getenv("PRICEMILL_TEST_DEMO_PRICES")); err == nil {
		s.patience = time.Hour
		s.eventually("there are enough prices", func() bool {
			_, body := s.get("/api/v1/symbols?limit=1", "")
			var known struct{ Items []struct{ Count int } }
			return json.Unmarshal([]byte(body), &known) == nil && len(known.Items) > 0 && known.Items[0].Count >= wanted
		})
	}
	p = openTab(t, newBrowser(t), s, 1280, "light", true)
	p.open(s.url + "/")
	p.keep("demo-watchlist")
	p.open(s.url + symbolPath + "&kind=candles&interval=10s&lines=bollinger&lines=ema&chosen=yes")
	p.keep("demo-symbol")
	p.check("demo")
}

// TestTheWatchListGrows: a page that was opened before there was a price shows the first
// one and is live from then on, and so is a symbol that comes later.
func TestTheWatchListGrows(t *testing.T) {
	s := launch(t, "DEMO=off")
	s.eventually("it is ready", func() bool { status, _ := s.get("/readyz", ""); return status == http.StatusOK })
	p := openTab(t, newBrowser(t), s, 1280, "light", true)
	p.open(s.url + "/")
	if text := value[string](p, "document.querySelector('main').textContent"); !strings.Contains(text, "No prices yet") {
		t.Fatalf("the page says %s", text)
	}
	p.run(chromedp.Evaluate("window.sameDocument = true", nil))
	shown := func(symbol string) string {
		return value[string](p, fmt.Sprintf("document.querySelector('[data-symbol=%s] [data-live=price]')?.textContent ?? ''", symbol))
	}
	live := func() bool { return value[string](p, "document.getElementById('connection').textContent") == "Live" }
	s.ingest("2025-06-15T14:30:00Z,ACME,1.25,1")
	s.eventually("the first price is there", func() bool { return shown("ACME") == "1.25" })
	s.eventually("the page is live", live)
	s.ingest("2025-06-15T14:30:00Z,GLOBEX,2.25,1")
	s.eventually("the second symbol is there", func() bool { return shown("GLOBEX") == "2.25" })
	s.eventually("the page is live again", live)
	s.ingest("2025-06-15T14:30:01Z,GLOBEX,2.5,1")
	s.eventually("its price moves", func() bool { return shown("GLOBEX") == "2.50" })
	if !value[bool](p, "window.sameDocument === true") {
		t.Error("the page was loaded again")
	}
	p.check("growing")
}

// TestOtherSitesCannotSubmit: a form on a page of another origin is refused.
func TestOtherSitesCannotSubmit(t *testing.T) {
	s := startService(t)
	p := openTab(t, newBrowser(t), s, 1280, "light", true)
	form := `<form method="post" action="` + s.url + `/dashboard/actions"><input name="do" value="create-job"><input name="symbols" value="EVIL"><input name="interval" value="60"><button>x</button></form>`
	p.run(chromedp.Navigate("data:text/html,"+url.PathEscape(form)), chromedp.Click("button", chromedp.ByQuery), chromedp.WaitReady("body"))
	s.eventually("the answer is there", func() bool {
		return strings.Contains(value[string](p, "document.body.textContent"), "Cross-origin request refused")
	})
	if _, body := s.get("/api/v1/prices/poll", ""); strings.Contains(body, "EVIL") {
		t.Error("another site made a job")
	}
}

// lowContrast names the first text whose contrast is below 4.5, the least that WCAG 2
// asks for at level AA.
const lowContrast = `(() => {
	const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
	const numbers = (text) => text.match(/[\d.]+/g).map(Number);
	const behind = (e) => { for (; e; e = e.parentElement) { const c = numbers(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] === 1) return c; } return [255, 255, 255]; };
	for (const e of document.querySelectorAll("body *")) {
		if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || !e.checkVisibility() || e.closest(".unseen, .skip, .changed, option")) continue;
		const [a, b] = [light(numbers(getComputedStyle(e).color).slice(0, 3)), light(behind(e).slice(0, 3))];
		const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
		if (ratio < 4.5) return ratio.toFixed(2) + " " + e.className + " " + e.textContent.trim().slice(0, 40);
	}
	return "";
})()`

// namelessControls names the first link, button, field or picture that a screen reader
// has no name for.
const namelessControls = `(() => {
	for (const e of document.querySelectorAll("a[href], button, input:not([type=hidden]), select, img, progress")) {
		const named = e.textContent.trim() || e.getAttribute("aria-label") || e.getAttribute("alt") || e.labels?.length;
		if (!named || (e.tagName === "SELECT" && !e.labels.length)) return e.outerHTML.slice(0, 100);
	}
	return document.querySelectorAll("h1").length ? "" : "no heading";
})()`
