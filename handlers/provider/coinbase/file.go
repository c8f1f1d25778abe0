package coinbase

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

var _ pipeline.FileReader = (*provider)(nil)

// maxLine bounds a line of a file: a frame as a JSON string, with its escapes.
const maxLine = 2 * schema.MaxRawResponse

// ReadFile implements pipeline.FileReader. A line is a frame of the WebSocket
// feed as it came, or {"frame": "…", "received_at": "1618677817.079694"}: the
// frame as text, with the seconds since 1970 at which it was received. Without
// them, the time of the trade is taken. Frames that tell of a trade are quotes. There are no
// options.
func (p *provider) ReadFile(r io.Reader, options map[string]string) iter.Seq2[pipeline.FileLine, error] {
	return func(yield func(pipeline.FileLine, error) bool) {
		for name := range options {
			yield(pipeline.FileLine{}, fmt.Errorf("%w: files of %s take no option %q", pipeline.ErrOption, Name, name))
			return
		}
		lines := bufio.NewReaderSize(r, maxLine)
		for number := 1; ; number++ {
			text, err := lines.ReadSlice('\n')
			switch {
			case err == nil, errors.Is(err, io.EOF) && len(text) > 0: // the last line may have no end
			case errors.Is(err, io.EOF) && number > 1:
				return
			case errors.Is(err, io.EOF):
				err = errors.New("the file is empty")
			case errors.Is(err, bufio.ErrBufferFull):
				err = fmt.Errorf("line %d has more than %d bytes", number, maxLine)
			default:
				err = fmt.Errorf("reading line %d: %w", number, err)
			}
			if err != nil && !errors.Is(err, io.EOF) {
				yield(pipeline.FileLine{}, err)
				return
			}
			line, err := p.readLine(text)
			if line.Number = number; err != nil {
				err = &pipeline.LineError{Line: number, Err: err}
			}
			if !yield(line, err) {
				return
			}
		}
	}
}

// readLine returns a line without an id where it tells of no trade.
func (p *provider) readLine(text []byte) (pipeline.FileLine, error) {
	if text = bytes.TrimSpace(text); len(text) == 0 {
		return pipeline.FileLine{}, nil
	}
	var recorded struct {
		Frame      *string         `json:"frame"`
		ReceivedAt json.RawMessage `json:"received_at"`
	}
	if err := json.Unmarshal(text, &recorded); err != nil {
		return pipeline.FileLine{}, fmt.Errorf("not a frame in JSON: %w", err)
	}
	frame := bytes.Clone(text)
	if recorded.Frame != nil {
		frame = []byte(*recorded.Frame)
	}
	symbol, id, err := TradeID(frame)
	if errors.Is(err, ErrNoTrade) {
		return pipeline.FileLine{}, nil
	}
	if err != nil {
		return pipeline.FileLine{}, err
	}
	quote := schema.QuoteFetched{Quote: schema.Quote{Provider: Name, Symbol: symbol}, RawResponse: frame}
	prices, err := p.Normalize(quote)
	if err != nil {
		return pipeline.FileLine{}, err
	}
	quote.ReceivedAt = prices[0].Time
	if recorded.Frame != nil && recorded.ReceivedAt != nil {
		if quote.ReceivedAt, err = parseReceived(strings.Trim(string(recorded.ReceivedAt), `"`)); err != nil {
			return pipeline.FileLine{}, err
		}
	}
	return pipeline.FileLine{ID: id, Quote: quote}, nil
}

// parseReceived reads seconds since 1970 with a fraction, of which microseconds
// are kept.
func parseReceived(text string) (schema.Time, error) {
	whole, fraction, _ := strings.Cut(text, ".")
	seconds, err := strconv.ParseUint(whole, 10, 38) // to the year 10680, which Validate refuses
	if err != nil {
		return schema.Time{}, fmt.Errorf("received_at %.40q is not in seconds since 1970", text)
	}
	var micros uint64
	if fraction != "" {
		micros, err = strconv.ParseUint((fraction + "000000")[:6], 10, 64)
		if err != nil || strings.Trim(fraction, "0123456789") != "" {
			return schema.Time{}, fmt.Errorf("received_at %.40q is not in seconds since 1970", text)
		}
	}
	received := schema.NewTime(time.Unix(int64(seconds), int64(micros)*1000))
	if err := received.Validate(); err != nil {
		return schema.Time{}, fmt.Errorf("received_at: %w", err)
	}
	return received, nil
}
