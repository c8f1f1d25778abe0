package contracttest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Request is a request as it is sent, byte for byte.
type Request struct {
	// Operation is the one that it was made for. A path or a method that was
	// changed may lead elsewhere.
	Operation *Operation
	// Kind says what is special about it, for people.
	Kind string

	Method string
	Path   string      // escaped
	Query  []string    // parts between ampersands, escaped
	Header [][2]string // names and values; a Host is added where there is none
	Body   []byte      // nil for none
	// Chunked sends the body in chunks.
	Chunked bool
	// Raw, if any, is sent in place of all of that. It is no HTTP/1.1, and answered
	// before any route is looked for.
	Raw []byte

	// Statuses are those of which one must come; none for all that the document
	// has.
	Statuses []int
}

// Target is path and query.
func (r Request) Target() string {
	if r.Query == nil {
		return r.Path
	}
	return r.Path + "?" + strings.Join(r.Query, "&")
}

// Bytes is the request on the wire.
func (r Request) Bytes() []byte {
	if r.Raw != nil {
		return r.Raw
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s %s HTTP/1.1\r\n", r.Method, r.Target())
	if !r.has("Host") {
		out.WriteString("Host: localhost\r\n")
	}
	for _, h := range r.Header {
		fmt.Fprintf(&out, "%s: %s\r\n", h[0], h[1])
	}
	switch {
	case r.Chunked:
		fmt.Fprintf(&out, "Transfer-Encoding: chunked\r\n\r\n")
		if len(r.Body) > 0 {
			fmt.Fprintf(&out, "%x\r\n%s\r\n", len(r.Body), r.Body)
		}
		out.WriteString("0\r\n\r\n")
	case r.Body != nil:
		fmt.Fprintf(&out, "Content-Length: %d\r\n\r\n%s", len(r.Body), r.Body)
	default:
		out.WriteString("\r\n")
	}
	return out.Bytes()
}

func (r Request) has(name string) bool {
	for _, h := range r.Header {
		if strings.EqualFold(h[0], name) {
			return true
		}
	}
	return false
}

// DecodedPath is the path as a server reads it.
func (r Request) DecodedPath() string {
	if decoded, err := url.PathUnescape(r.Path); err == nil {
		return decoded
	}
	return r.Path
}

// Curl is a line for a shell that sends the same to base, such as
// http://127.0.0.1:8000.
func (r Request) Curl(base string) string {
	if r.Raw != nil {
		host := strings.TrimPrefix(base, "http://")
		return fmt.Sprintf("printf %s | nc %s", quote(escapeForPrintf(r.Raw)), strings.Replace(host, ":", " ", 1))
	}
	line := fmt.Sprintf("curl -sS -i -X %s --request-target %s", quote(r.Method), quote(r.Target()))
	if r.Method == http.MethodHead {
		line = fmt.Sprintf("curl -sS -I --request-target %s", quote(r.Target()))
	}
	for _, h := range r.Header {
		line += " -H " + quote(h[0]+": "+h[1])
	}
	if !r.has("Host") {
		line += " -H 'Host: localhost'"
	}
	if r.Chunked {
		line += " -H 'Transfer-Encoding: chunked'"
	}
	if r.Body != nil {
		if !r.has("Content-Type") {
			line += " -H 'Content-Type:'" // curl's own
		}
		line = fmt.Sprintf("printf %s | %s --data-binary @-", quote(escapeForPrintf(r.Body)), line)
	}
	return line + " " + base
}

func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// escapeForPrintf writes what a shell or a terminal would spoil in octal.
func escapeForPrintf(data []byte) string {
	var out strings.Builder
	for _, c := range data {
		if c < ' ' || c > '~' || c == '\\' || c == '%' {
			fmt.Fprintf(&out, `\%03o`, c)
		} else {
			out.WriteByte(c)
		}
	}
	return out.String()
}

// Client sends requests, one after the other, over one connection as long as that
// lasts. It must not be used concurrently.
type Client struct {
	// Address is host:port.
	Address string
	// Timeout is for a whole answer.
	Timeout time.Duration

	conn net.Conn // nil for none
	in   *bufio.Reader
}

// Do sends a request and returns the answer to it.
func (c *Client) Do(r Request) (Answer, error) {
	if c.conn == nil {
		conn, err := net.DialTimeout("tcp", c.Address, c.Timeout)
		if err != nil {
			return Answer{}, fmt.Errorf("connecting: %w", err)
		}
		c.conn, c.in = conn, bufio.NewReader(conn)
	}
	answer, last, err := c.exchange(r)
	if err != nil || last {
		c.Close()
	}
	return answer, err
}

// exchange also tells whether the answer is the last one of the connection.
func (c *Client) exchange(r Request) (answer Answer, last bool, err error) {
	if err := c.conn.SetDeadline(time.Now().Add(c.Timeout)); err != nil {
		return Answer{}, false, fmt.Errorf("setting the time limit: %w", err)
	}
	// A server may answer and close before it has read everything.
	_, writeErr := c.conn.Write(r.Bytes())
	for {
		response, err := http.ReadResponse(c.in, &http.Request{Method: r.Method})
		if err != nil {
			return Answer{}, false, fmt.Errorf("reading the answer: %w", errors.Join(err, writeErr))
		}
		if mediaOf(response.Header) == eventStream && r.Method != http.MethodHead {
			body, err := firstEvent(response.Body)
			return Answer{response.StatusCode, response.Header, body}, true, err
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close() // it was read to its end, or err says why not
		if err != nil {
			return Answer{}, false, fmt.Errorf("reading the body of an answer with status %d: %w", response.StatusCode, err)
		}
		if response.StatusCode >= http.StatusOK { // others announce it
			return Answer{response.StatusCode, response.Header, body}, response.Close || r.Raw != nil, nil
		}
	}
}

// eventStream is the media type of an answer that does not end.
const eventStream = "text/event-stream"

func mediaOf(header http.Header) string {
	media, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	return media
}

// firstEvent reads an endless answer up to the end of its first event.
func firstEvent(body io.Reader) ([]byte, error) {
	var text []byte
	for lines := bufio.NewReader(body); ; {
		line, err := lines.ReadBytes('\n')
		text = append(text, line...)
		if err != nil {
			return text, fmt.Errorf("reading the first event: %w", err)
		}
		if len(line) == 1 && bytes.Contains(text, []byte("event: ")) {
			return text, nil
		}
	}
}

// Close closes the connection, if there is one.
func (c *Client) Close() {
	if c.conn != nil {
		_ = c.conn.Close() // whatever it says, it is gone
		c.conn = nil
	}
}
