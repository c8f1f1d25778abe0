package browser_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// candlesPath is the page of a symbol of traded, with candles of a minute.
const candlesPath = "/dashboard/symbol?symbol=ACME&provider=csv&kind=candles&interval=1m&lines=average&window=5&chosen=yes"

// traded starts a service with ten minutes of prices, two a minute: 100 and 101 in the
// first, 101 and 102 in the second, of sizes 10 and 5.
func traded(t *testing.T) *service {
	t.Helper()
	s := launch(t, "DEMO=off", "PLUGINS=all")
	var lines []string
	for minute := range 10 {
		lines = append(lines, fmt.Sprintf("2025-06-15T14:3%d:00Z,ACME,%d,10", minute, 100+minute),
			fmt.Sprintf("2025-06-15T14:3%d:30Z,ACME,%d,5", minute, 101+minute))
	}
	s.ingest(lines...)
	return s
}

// charted is the page of traded, and its chart.
type charted struct {
	*tab
	s *service
}

func openChart(t *testing.T, s *service, width int64) charted {
	t.Helper()
	c := charted{openTab(t, newBrowser(t), s, width, "light", true), s}
	c.open(s.url + candlesPath)
	c.waitFor("15 Jun 2025 14:39:00 Open 109 High 110 Low 109 Close 110 Volume 15 Average 5 108.80")
	return c
}

func (c charted) readout() string {
	c.t.Helper()
	return value[string](c.tab, `[...document.querySelectorAll("#readout span")].map((s) => s.textContent).join(" ")`)
}

// waitFor waits until the readout says this.
func (c charted) waitFor(want string) {
	c.t.Helper()
	got := ""
	defer func() {
		if c.t.Failed() {
			c.t.Logf("the readout is %q", got)
		}
	}()
	c.s.eventually("the readout is "+want, func() bool { got = c.readout(); return got == want })
}

// bars waits until the chart has so many.
func (c charted) bars(want int) {
	c.t.Helper()
	c.s.eventually(fmt.Sprintf("there are %d bars", want), func() bool {
		return value[string](c.tab, `document.getElementById("crosshair").getAttribute("aria-valuemax")`) == fmt.Sprint(want-1)
	})
}

func (c charted) press(keys ...string) {
	c.t.Helper()
	c.run(chromedp.Focus("#crosshair", chromedp.ByID))
	for _, key := range keys {
		c.run(chromedp.KeyEvent(key))
	}
}

// places are the middles of the first and the last bar in the window.
func (c charted) places() (first, last, y float64) {
	c.t.Helper()
	const x = `(() => { const b = document.querySelector("#crosshair .down").getBoundingClientRect(); return b.x + b.width / 2; })()`
	c.run(chromedp.ScrollIntoView("#crosshair", chromedp.ByID))
	c.press(kb.Home)
	first = value[float64](c.tab, x)
	c.press(kb.End)
	last = value[float64](c.tab, x)
	return first, last, value[float64](c.tab, `(() => { const b = document.getElementById("crosshair").getBoundingClientRect(); return b.y + b.height / 2; })()`)
}

func (c charted) mouse(kind input.MouseType, x, y float64) {
	c.t.Helper()
	c.run(chromedp.MouseEvent(kind, x, y, chromedp.ButtonLeft))
}

const secondBar = "15 Jun 2025 14:31:00 Open 101 High 102 Low 101 Close 102 Volume 15 Average 5 101.00"

// TestCrosshair: a bar's figures are those under the mouse, the finger, or where the keys
// have moved, and screen readers are told the same.
func TestCrosshair(t *testing.T) {
	s := traded(t)
	c := openChart(t, s, 1280)
	newest := c.readout()
	first, last, y := c.places()
	step := (last - first) / 9

	c.mouse(input.MouseMoved, first+step, y)
	c.waitFor(secondBar)
	c.keep("crosshair")
	c.mouse(input.MouseMoved, first+step, 5)
	c.waitFor(newest)
	if value[bool](c.tab, `getComputedStyle(document.querySelector("#crosshair .down")).visibility === "visible"`) {
		t.Error("the crosshair stays where the mouse has left the chart")
	}

	c.press(kb.Home, kb.ArrowRight)
	c.waitFor(secondBar)
	if told := value[string](c.tab, `document.getElementById("crosshair").getAttribute("aria-valuetext")`); told != "15 Jun 2025 14:31:00, Open 101, High 102, Low 101, Close 102, Volume 15, Average 5 101.00" {
		t.Errorf("screen readers are told %q", told)
	}
	for _, finding := range c.axe() {
		t.Errorf("axe-core: %s", finding)
	}
	c.press(kb.ArrowLeft, kb.ArrowLeft, kb.PageUp, kb.Escape)
	c.waitFor(newest)

	c.run(input.DispatchTouchEvent(input.TouchStart, []*input.TouchPoint{{X: first + step, Y: y}}))
	c.waitFor(secondBar)
	c.run(input.DispatchTouchEvent(input.TouchEnd, []*input.TouchPoint{}))
	c.check("crosshair")
}

// TestZoom by keys, buttons and the mouse: the picture and its numbers are of the period,
// and the whole comes back.
func TestZoom(t *testing.T) {
	c := openChart(t, traded(t), 1280)
	picture := func() string { return value[string](c.tab, "document.querySelector('#chart img').currentSrc") }
	whole := picture()
	zoom := func(button string) { c.run(chromedp.Click("[data-zoom="+button+"]", chromedp.ByQuery)) }

	c.press("+")
	c.bars(5)
	if picture() == whole || !strings.Contains(picture(), "from=2025-06-15T14%3A35%3A00.000Z") {
		t.Errorf("the picture of the last five minutes is %s", picture())
	}
	zoom("earlier")
	c.s.eventually("the period is earlier", func() bool { return strings.Contains(picture(), "to=2025-06-15T14%3A38%3A00.000Z") })
	zoom("later")
	zoom("later")
	c.s.eventually("the period is the last one", func() bool { return strings.Contains(picture(), "from=2025-06-15T14%3A35%3A00.000Z") })
	zoom("out")
	c.bars(10)
	zoom("in")
	c.bars(5)
	zoom("whole")
	c.bars(10)

	// From the third bar to the sixth, with the mouse.
	first, last, y := c.places()
	step := (last - first) / 9
	c.mouse(input.MousePressed, first+2*step, y)
	c.mouse(input.MouseMoved, first+4*step, y)
	c.keep("zoom")
	c.mouse(input.MouseMoved, first+5*step, y)
	c.mouse(input.MouseReleased, first+5*step, y)
	c.bars(4)
	c.press(kb.Home)
	c.waitFor("15 Jun 2025 14:32:00 Open 102 High 103 Low 102 Close 103 Volume 15 Average 5 101.80")
	c.press("0")
	c.bars(10)
	c.check("zoom")
}

// TestALatePriceMendsTheChart of an open page: the table, the candle and the average have
// it, without a reload, and it does not become the newest price.
func TestALatePriceMendsTheChart(t *testing.T) {
	s := traded(t)
	c := openChart(t, s, 1280)
	s.eventually("the page is live", func() bool {
		return value[string](c.tab, "document.getElementById('connection').textContent") == "Live"
	})
	c.run(chromedp.Evaluate("window.sameDocument = true", nil))
	c.press(kb.Home)
	c.waitFor("15 Jun 2025 14:30:00 Open 100 High 101 Low 100 Close 101 Volume 15 Average 5 100.50")
	row := func() string {
		return value[string](c.tab, `[...document.querySelectorAll("[data-refresh=history] tr")].find((r) => r.textContent.includes("14:30:15"))?.cells[1].textContent ?? ""`)
	}
	// axis is whether the picture on the page names this price.
	axis := func(price string) bool {
		var svg string
		c.run(chromedp.Evaluate(`fetch(document.querySelector("#chart img").currentSrc).then((r) => r.text())`, &svg, awaited))
		return strings.Contains(svg, ">"+price+"<")
	}
	if row() != "" || axis("250") {
		t.Fatal("the page has the price before it came")
	}

	s.ingest("2025-06-15T14:30:15Z,ACME,250.5,7")

	s.eventually("the table has the late price", func() bool { return row() == "250.5" })
	c.waitFor("15 Jun 2025 14:30:00 Open 100.0 High 250.5 Low 100.0 Close 101.0 Volume 22 Average 5 150.500")
	s.eventually("the picture has the late price", func() bool { return axis("250") })
	if newest := value[string](c.tab, `document.querySelector("[data-live=price]").textContent`); newest != "110" && newest != "110.0" {
		t.Errorf("the newest price is %s", newest)
	}
	if !value[bool](c.tab, "window.sameDocument === true") {
		t.Error("the page was loaded again")
	}
	c.keep("mended")
	c.check("late")
}
