package browser_test

import (
	"os"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"
)

// axeFile names the script of axe-core, which make fetches from npm.
const axeFile = "PRICEMILL_TEST_AXE"

var readAxe = sync.OnceValues(func() (string, error) {
	text, err := os.ReadFile(os.Getenv(axeFile))
	return string(text), err
})

// axe are the findings of axe-core that are serious or worse, in the page as it is.
func (p *tab) axe() []string {
	p.t.Helper()
	script, err := readAxe()
	if err != nil {
		p.t.Fatalf("reading axe-core, whose place %s names (make test-browser): %v", axeFile, err)
	}
	var findings []string
	p.run(chromedp.Evaluate(script+";undefined", nil), chromedp.Evaluate(`axe.run(document, { resultTypes: ["violations"] }).then((r) =>
		r.violations.filter((v) => v.impact === "serious" || v.impact === "critical").map((v) => v.id + ": " + v.help + ": " + v.nodes[0].html.slice(0, 200)))`,
		&findings, awaited))
	return findings
}

// TestAxeFinds: a page that is wrong has findings, so those of the service have none for a
// good reason.
func TestAxeFinds(t *testing.T) {
	s := launch(t, "DEMO=off")
	p := openTab(t, newBrowser(t), s, 1280, "light", true)
	p.run(chromedp.Navigate("data:text/html,<title>x</title><main><button></button></main>"), chromedp.WaitReady("main"))
	if findings := p.axe(); len(findings) == 0 {
		t.Error("axe-core finds nothing wrong with a button without a name")
	}
}
