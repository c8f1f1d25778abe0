package browser_test

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// tab is a page of a browser, and what went wrong in it.
type tab struct {
	t   *testing.T
	ctx context.Context
	own string // the host of the service

	mu     sync.Mutex
	faults []string
}

// newBrowser starts Chromium without a window.
func newBrowser(t *testing.T) context.Context {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.Flag("disable-background-networking", true))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Run(ctx); err != nil {
		t.Fatalf("starting Chromium (apt-get install chromium): %v", err)
	}
	return ctx
}

// openTab opens an empty page of a width, in a theme, with or without JavaScript.
func openTab(t *testing.T, browser context.Context, s *service, width int64, theme string, script bool) *tab {
	t.Helper()
	address, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := chromedp.NewContext(browser)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel)
	p := &tab{t: t, ctx: ctx, own: address.Host}
	chromedp.ListenTarget(ctx, p.listen)
	p.run(network.Enable(), log.Enable(), runtime.Enable(),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}}),
		emulation.SetScriptExecutionDisabled(!script), chromedp.EmulateViewport(width, 900))
	return p
}

// listen takes down messages on the console and requests to other hosts. That the
// stream of events is not there is the one answer that pages are made for.
func (p *tab) listen(event any) {
	fault := ""
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err != nil || u.Host != p.own && u.Scheme != "about" && u.Scheme != "data" {
			fault = "a request to " + e.Request.URL
		}
	case *runtime.EventExceptionThrown:
		fault = "an exception: " + e.ExceptionDetails.Error()
	case *runtime.EventConsoleAPICalled:
		fault = "console." + string(e.Type)
	case *log.EventEntryAdded:
		if !strings.Contains(e.Entry.URL, "/api/v1/prices/stream") {
			fault = "the console says: " + e.Entry.Text + " " + e.Entry.URL
		}
	}
	if fault != "" {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.faults = append(p.faults, fault)
	}
}

func (p *tab) run(actions ...chromedp.Action) {
	p.t.Helper()
	if err := chromedp.Run(p.ctx, actions...); err != nil {
		p.t.Fatal(err)
	}
}

// open loads a page.
func (p *tab) open(address string) {
	p.t.Helper()
	p.run(chromedp.Navigate(address), chromedp.WaitReady("main"))
}

// value is what an expression gives in the page.
func value[T any](p *tab, expression string) T {
	p.t.Helper()
	var v T
	p.run(chromedp.Evaluate(expression, &v))
	return v
}

// awaited has Evaluate wait for a promise.
func awaited(e *runtime.EvaluateParams) *runtime.EvaluateParams { return e.WithAwaitPromise(true) }

// check fails where anything went wrong.
func (p *tab) check(what string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, fault := range p.faults {
		p.t.Errorf("%s: %s", what, fault)
	}
	p.faults = nil
}

// keep writes a picture of the page to PRICEMILL_TEST_SCREENSHOTS, if that names a
// folder.
func (p *tab) keep(name string) {
	p.t.Helper()
	folder := os.Getenv("PRICEMILL_TEST_SCREENSHOTS")
	if folder == "" {
		return
	}
	var picture []byte
	p.run(chromedp.ActionFunc(func(ctx context.Context) (err error) {
		picture, err = page.CaptureScreenshot().WithCaptureBeyondViewport(true).Do(ctx)
		return err
	}))
	if err := os.WriteFile(filepath.Join(folder, name+".png"), picture, 0o644); err != nil {
		p.t.Fatal(err)
	}
}
