package httpapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// How long caches may keep an answer.
const (
	cacheQuote    = "max-age=1" // a price is news for about as long as it takes to show it
	cacheDocument = "no-cache"  // kept, but asked for again: it may have changed
	cacheNever    = "no-store"  // the state of this very moment
)

const jsonContent = "application/json"

// encode writes JSON as clients of the original got it: compact, and with
// <, > and & as they are, since no answer is ever part of a page.
func encode(body any) ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(body); err != nil {
		return nil, fmt.Errorf("encoding a response: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// writeJSON writes a response that is not kept by caches.
func (a *API) writeJSON(w http.ResponseWriter, r *http.Request, status int, body any) {
	a.writeBody(w, r, jsonContent, status, body)
}

// writeBody is writeJSON of a media type that is JSON.
func (a *API) writeBody(w http.ResponseWriter, r *http.Request, media string, status int, body any) {
	text, err := encode(body)
	if err != nil {
		a.config.Logger.ErrorContext(r.Context(), "request failed", "path", r.URL.Path, "error", err)
		status, text = http.StatusInternalServerError, []byte(`{"detail":"Internal Server Error"}`)
	}
	w.Header().Set("Content-Type", media)
	w.Header().Set("Cache-Control", cacheNever)
	w.WriteHeader(status)
	// An error here means that the client is gone, which net/http notices.
	_, _ = w.Write(text)
}

// writeState answers 200 with what may be another thing at the next moment: caches ask each
// time, and a client that has it already is told so. The answer to a command is not kept.
func (a *API) writeState(w http.ResponseWriter, r *http.Request, body any) {
	text, err := encode(body)
	if err != nil || r.Method != http.MethodGet && r.Method != http.MethodHead {
		a.writeJSON(w, r, http.StatusOK, body) // which tells of the error
		return
	}
	newDocument(jsonContent, text).write(w, r, cacheDocument)
}

// writeQuote writes a price or an average.
func writeQuote(w http.ResponseWriter, r *http.Request, body any) error {
	text, err := encode(body)
	if err != nil {
		return err
	}
	writeText(w, r, text)
	return nil
}

// writeText is writeQuote of JSON.
func writeText(w http.ResponseWriter, r *http.Request, text jsonText) {
	newDocument(jsonContent, text).write(w, r, cacheQuote)
}

// document is an answer with a validator.
type document struct {
	contentType string
	etag        string
	body        []byte
}

func newDocument(contentType string, body []byte) document {
	sum := sha256.Sum256(body)
	return document{contentType, `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`, body}
}

// write writes a 200, or a 304 where the client has the document.
func (d document) write(w http.ResponseWriter, r *http.Request, caching string) {
	header, values := w.Header(), make([]string, 4) // one allocation for all four
	set := func(at int, name, value string) {
		values[at] = value
		header[name] = values[at : at+1 : at+1]
	}
	set(0, "Etag", d.etag)
	set(1, "Cache-Control", caching)
	if matches(r.Header.Values("If-None-Match"), d.etag) {
		w.Header().Del("Content-Encoding") // of a body that is not sent
		w.WriteHeader(http.StatusNotModified)
		return
	}
	set(2, "Content-Type", d.contentType)
	set(3, "Content-Length", strconv.Itoa(len(d.body))) // else a long one is sent in chunks
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(d.body) // as in writeJSON
}

// matches compares weakly, as If-None-Match is defined to (RFC 9110, 13.1.2).
// Our tags hold no comma, so that splitting at commas finds each that matters.
func matches(conditions []string, etag string) bool {
	for _, condition := range conditions {
		for candidate := range strings.SplitSeq(condition, ",") {
			candidate = strings.TrimSpace(candidate)
			if candidate == "*" || strings.TrimPrefix(candidate, "W/") == etag {
				return true
			}
		}
	}
	return false
}
