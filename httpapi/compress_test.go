package httpapi_test

import (
	"compress/gzip"
	"io"
	"net/http"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// decoders read an answer by its Content-Encoding.
var decoders = map[string]func(io.Reader) (io.Reader, error){
	"":     func(r io.Reader) (io.Reader, error) { return r, nil },
	"gzip": func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
	"zstd": func(r io.Reader) (io.Reader, error) {
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1)) // decodes without goroutines
	},
}

// TestSeriesAreCompressed: the large ones, for clients that take it; each encoding has a
// tag of its own, by which a client gets a 304.
func TestSeriesAreCompressed(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.Prices = past(100) })
	for _, media := range []string{"application/json", "text/csv"} {
		plain := get(t, api, history+"?symbol=A&limit=100", "Accept", media)
		for _, test := range []struct{ limit, accept, encoding string }{
			{"100", "", ""}, {"100", "identity", ""}, {"100", "br, *", ""}, {"100", "gzip;q=0", ""},
			{"100", "gzip", "gzip"}, {"100", "GZIP;q=0.5, deflate", "gzip"}, {"100", "gzip, zstd", "zstd"}, {"1", "gzip, zstd", ""},
		} {
			path := history + "?symbol=A&limit=" + test.limit
			w := get(t, api, path, "Accept", media, "Accept-Encoding", test.accept)
			if got := w.Header().Get("Content-Encoding"); w.Code != http.StatusOK || got != test.encoding {
				t.Fatalf("%s %q: %d with encoding %q, want %q", path, test.accept, w.Code, got, test.encoding)
			}
			etag, size := w.Header().Get("ETag"), w.Body.Len()
			if test.limit == "100" {
				decoder, err := decoders[test.encoding](w.Body)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(decoder)
				if err != nil || string(body) != plain.Body.String() {
					t.Errorf("%s %q: %d other bytes, error %v", media, test.accept, len(body), err)
				}
				if isOther := etag != plain.Header().Get("ETag"); isOther != (test.encoding != "") || isOther && size > len(body)/4 {
					t.Errorf("%s %q: %d of %d bytes, tag %s, and %s as it is", media, test.accept, size, len(body), etag, plain.Header().Get("ETag"))
				}
			}
			again := get(t, api, path, "Accept", media, "Accept-Encoding", test.accept, "If-None-Match", etag)
			if again.Code != http.StatusNotModified || again.Body.Len() > 0 || again.Header().Get("ETag") != etag || again.Header().Get("Content-Encoding") != "" {
				t.Errorf("%s %q: again %d, %d bytes, %v", media, test.accept, again.Code, again.Body.Len(), again.Header())
			}
		}
	}
}
