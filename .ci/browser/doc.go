// Package browser holds the dashboard to what it promises, in Debian's Chromium.
//
// It is a module of its own, so that what drives a browser is no dependency of the
// program. PRICEMILL_TEST_BINARY names the program; `make test-browser` builds it.
package browser
