package httpapi

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/pricemill/pricemill/schema/parquet"
)

// The values of Content-Encoding.
const (
	gzipEncoding = "gzip"
	zstdEncoding = "zstd"
)

// minPacked is the fewest bytes of an answer that is worth compressing.
const minPacked = 1024

// packing compresses answers, many at once. Its options are valid, so there is no error.
var packing, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(512<<10))

// takes reports whether the client names an encoding among those that it understands
// (RFC 9110, 12.5.3). A client that takes anything gets it plain.
func takes(r *http.Request, encoding string) bool {
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Accept-Encoding"), ","), ",") {
		name, weight, weighted := strings.Cut(part, ";")
		if !strings.EqualFold(strings.TrimSpace(name), encoding) {
			continue
		}
		_, value, _ := strings.Cut(weight, "=")
		q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		return !weighted || err == nil && q > 0
	}
	return false
}

// writePacked writes a 200 or a 304, packed. Each encoding is a document of its own, with
// its own ETag.
func writePacked(w http.ResponseWriter, r *http.Request, media string, body []byte) {
	newDocument(media, pack(w.Header(), r, media, body)).write(w, r, cacheQuote)
}

// pack compresses the body of an answer by zstd or gzip for a client that takes one of them,
// and says so in the header. Parquet is compressed as it is.
func pack(header http.Header, r *http.Request, media string, body []byte) []byte {
	switch {
	case len(body) < minPacked || media == parquet.Media:
	case takes(r, zstdEncoding):
		header.Set("Content-Encoding", zstdEncoding)
		return packing.EncodeAll(body, nil)
	case takes(r, gzipEncoding):
		header.Set("Content-Encoding", gzipEncoding)
		var out bytes.Buffer
		packer, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed) // a level that there is
		_, _ = packer.Write(body)                              // into memory
		_ = packer.Close()
		return out.Bytes()
	}
	return body
}
