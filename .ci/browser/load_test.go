package browser_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/performance"
	"github.com/chromedp/chromedp"
)

const (
	loadSymbols = 200
	loadRate    = 50 // batches of updates a second
	// maxFlush bounds the mean processor time of a flush, with its style and layout: two or
	// three times what a busy machine takes, and half of what all 200 rows would.
	maxFlush = 25 * time.Millisecond
	// longTask is when a browser calls a task long. Its clock runs on while a busy machine
	// does something else, so one flush in ten may take longer.
	longTask = 50
)

// countFlushes watches what the script of the page does: whether it writes to the document
// more than once a frame or between two, and how long frames and writing take.
const countFlushes = `
window.load = { flushes: 0, most: 0, outside: 0, tasks: [], frames: [] };
const native = window.requestAnimationFrame.bind(window);
const observer = new MutationObserver((records) => { load.outside += records.length; }); // those of a flush are taken in it
let inFrame = 0, last = 0;
window.requestAnimationFrame = (draw) => native((now) => {
	const began = performance.now();
	draw(now);
	load.tasks.push(performance.now() - began);
	if (!observer.takeRecords().length) return;
	load.flushes++;
	load.most = Math.max(load.most, ++inFrame);
});
addEventListener("DOMContentLoaded", () => observer.observe(document.querySelector("[data-refresh=quotes]"), { subtree: true, childList: true, characterData: true, attributes: true }));
const frame = (now) => { if (last) load.frames.push(now - last); last = now; inFrame = 0; native(frame); };
native(frame);
const numbers = (all) => { const f = all.toSorted((a, b) => a - b), at = (q) => (f[Math.floor(q * (f.length - 1))] ?? 0).toFixed(1);
	return f.length + ", median " + at(0.5) + " ms, p95 " + at(0.95) + ", longest " + at(1); };
`

// TestTwoHundredSymbols: a watch list of 200 symbols writes to the document at most once
// a frame and never between two, and what it writes is bounded in processor time,
// however long the list is: with 50 updates a second, and with ten of each symbol, the most that the page asks
// for. How many frames a second there are depends on the machine, and is printed.
func TestTwoHundredSymbols(t *testing.T) {
	s := launch(t, "DEMO=off")
	var lines []string
	for i := range loadSymbols {
		for second := range 10 {
			lines = append(lines, fmt.Sprintf("2025-06-15T14:30:0%dZ,S%03d,%d.%02d,1", second, i, 100+i, second))
		}
	}
	s.ingest(lines...)
	events := make(chan string)
	address := withStream(t, s, events)
	p := openTab(t, newBrowser(t), &service{t: t, url: address}, 1280, "light", true)
	p.run(chromedp.ActionFunc(func(ctx context.Context) error {
		_, err := page.AddScriptToEvaluateOnNewDocument(countFlushes).Do(ctx)
		return err
	}), performance.Enable().WithTimeDomain(performance.EnableTimeDomainThreadTicks))
	s.eventually("the page has all symbols", func() bool {
		p.open(address + "/")
		return value[int](p, "document.querySelectorAll('[data-reference]').length") == loadSymbols
	})
	p.faults = nil // a page that was too slow for a busy machine is no fault here
	s.eventually("it has painted", func() bool { return value[int](p, "performance.getEntriesByName('first-contentful-paint').length") > 0 })
	t.Logf("first contentful paint after %.0f ms", value[float64](p, "performance.getEntriesByName('first-contentful-paint')[0].startTime"))
	s.eventually("the page is live", func() bool { return value[string](p, "document.getElementById('connection').textContent") == "Live" })
	begin := time.Now().Add(time.Hour).UTC()
	for _, batch := range []int{1, 40} {
		t.Run(fmt.Sprintf("%d updates a second", batch*loadRate), func(t *testing.T) {
			begin = pushUpdates(t, s, p, events, batch, begin)
		})
	}
	p.check("load")
}

// pushUpdates sends 200 batches of prices, each of the next symbols, waits until the
// page shows the last of each, and holds what the page did to its bounds. It returns a
// later time than those of the prices.
func pushUpdates(t *testing.T, s *service, p *tab, events chan<- string, batch int, at time.Time) time.Time {
	t.Helper()
	p.run(chromedp.Evaluate("load.flushes = load.most = load.outside = load.tasks.length = load.frames.length = 0", nil))
	before, began := scriptTime(p), time.Now()
	lasts := map[string]string{}
	pace := time.NewTicker(time.Second / loadRate)
	defer pace.Stop()
	const batches = 200
	for b := range batches {
		var text strings.Builder
		at = at.Add(time.Millisecond)
		for n := range batch {
			i := (b*batch + n) % loadSymbols
			symbol, price := fmt.Sprintf("S%03d", i), fmt.Sprintf("%d.%02d", 100+i, 10+b%90)
			lasts[symbol] = price
			fmt.Fprintf(&text, "event: price\nid: 1\ndata: {\"symbol\":%q,\"provider\":\"csv\",\"price\":%s,\"timestamp\":%q}\n\n", symbol, price, at.Format(time.RFC3339Nano))
		}
		select {
		case events <- text.String():
		case <-time.After(time.Minute):
			t.Fatal("the page does not read the stream")
		}
		<-pace.C
	}
	s.eventually("each symbol has its last price", func() bool {
		shown := value[map[string]string](p, `Object.fromEntries([...document.querySelectorAll("[data-reference]")].map((r) => [r.dataset.symbol, r.querySelector("[data-live=price]").textContent]))`)
		for symbol, last := range lasts {
			if shown[symbol] != last {
				return false
			}
		}
		return true
	})
	took := time.Since(began)
	load := value[struct {
		Flushes, Most, Outside int
		Tasks                  []float64
	}](p, "load")
	each := (scriptTime(p) - before) / time.Duration(max(1, load.Flushes))
	t.Logf("%d updates in %.1f s: %d flushes, %v of processor time each, with style and layout", batches*batch, took.Seconds(), load.Flushes, each.Round(10*time.Microsecond))
	t.Logf("frames: %s, dropped %d", value[string](p, "numbers(load.frames)"), value[int](p, "load.frames.filter((ms) => ms > 25).length"))
	t.Logf("script in them: %s", value[string](p, "numbers(load.tasks)"))
	if load.Flushes == 0 || load.Most > 1 {
		t.Errorf("%d flushes, at most %d in a frame, want one", load.Flushes, load.Most)
	}
	if load.Outside > 0 {
		t.Errorf("%d writes between frames", load.Outside)
	}
	if each > maxFlush {
		t.Errorf("a flush takes %v of processor time, more than %v", each, maxFlush)
	}
	long := 0
	for _, ms := range load.Tasks {
		if ms > longTask {
			long++
		}
	}
	if long*10 > len(load.Tasks) {
		t.Errorf("%d of %d flushes took more than %d ms", long, len(load.Tasks), longTask)
	}
	return at
}

// scriptTime is the processor time of the page for script, style and layout.
func scriptTime(p *tab) time.Duration {
	p.t.Helper()
	total := 0.0
	p.run(chromedp.ActionFunc(func(ctx context.Context) error {
		metrics, err := performance.GetMetrics().Do(ctx)
		for _, m := range metrics {
			switch m.Name {
			case "ScriptDuration", "RecalcStyleDuration", "LayoutDuration":
				total += m.Value
			}
		}
		return err
	}))
	return time.Duration(total * float64(time.Second))
}
