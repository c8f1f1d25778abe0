package providertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// bytesStayAsTheyCame answers with as many bytes as there may be, in two pieces.
func bytesStayAsTheyCame(ctx context.Context, s REST) error {
	want := s.Answer + strings.Repeat(" \r\n\t", (schema.MaxRawResponse-len(s.Answer))/4)
	p, err := s.open(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, want[:10]) // anyone who asked may be gone
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, want[10:])
	})
	if err != nil {
		return err
	}
	defer p.close()
	got, err := p.quote(ctx, s.Symbol)
	if err == nil && string(got) != want {
		err = fmt.Errorf("%d bytes became %d others", len(want), len(got))
	}
	return err
}

// statusCodes says what an answer with a status is called.
func (s REST) statusCodes() map[int]schema.Code {
	return map[int]schema.Code{
		http.StatusNoContent:           schema.CodeBadResponse,
		http.StatusNotModified:         schema.CodeBadResponse,
		http.StatusBadRequest:          schema.CodeBadResponse,
		http.StatusUnauthorized:        schema.CodeUnauthorized,
		http.StatusForbidden:           schema.CodeUnauthorized,
		http.StatusNotFound:            s.NotFound,
		http.StatusTeapot:              schema.CodeBadResponse,
		http.StatusTooManyRequests:     schema.CodeRateLimited,
		http.StatusInternalServerError: schema.CodeUnavailable,
		http.StatusBadGateway:          schema.CodeUnavailable,
		http.StatusServiceUnavailable:  schema.CodeUnavailable,
	}
}

// eachStatusHasItsCode answers with pages that repeat the request, as some do.
func eachStatusHasItsCode(ctx context.Context, s REST) error {
	var errs []error
	for status, want := range s.statusCodes() {
		if own, is := s.Statuses[status]; is {
			want = own
		}
		_, err := s.failsOn(ctx, want, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Error", fmt.Sprint(r.Header))
			write(w, status, fmt.Sprintf(`{"error":%q}`, s.sentKey(r)))
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("status %d: %w", status, err))
		}
	}
	return errors.Join(errs...)
}

// longest is more than any service should be able to keep us away for.
const longest = 24 * time.Hour

func retryAfterIsReported(ctx context.Context, s REST) error {
	var errs []error
	for text, want := range map[string]time.Duration{
		"":    0,
		"7":   7 * time.Second,
		"120": 2 * time.Minute,
		now().Add(90 * time.Second).Format(http.TimeFormat): 90 * time.Second,
		now().Add(-time.Hour).Format(http.TimeFormat):       0,
		"0":    0,
		"-5":   0,
		"soon": 0,
	} {
		for status, code := range map[int]schema.Code{429: schema.CodeRateLimited, 503: schema.CodeUnavailable} {
			failure, err := s.failsAskingFor(ctx, status, code, text)
			if err == nil && failure.RetryAfter != want {
				err = fmt.Errorf("%v, not %v", failure.RetryAfter, want)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("status %d, Retry-After %q: %w", status, text, err))
			}
		}
	}
	for _, absurd := range []string{"31536000", "99999999999999999", now().AddDate(100, 0, 0).Format(http.TimeFormat)} {
		failure, err := s.failsAskingFor(ctx, http.StatusTooManyRequests, schema.CodeRateLimited, absurd)
		if err == nil && (failure.RetryAfter <= 0 || failure.RetryAfter > longest) {
			err = fmt.Errorf("%v", failure.RetryAfter)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("Retry-After %q: %w", absurd, err))
		}
	}
	return errors.Join(errs...)
}

func (s REST) failsAskingFor(ctx context.Context, status int, want schema.Code, retryAfter string) (*pipeline.QuoteError, error) {
	return s.failsOn(ctx, want, func(w http.ResponseWriter, _ *http.Request) {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		write(w, status, "{}")
	})
}

// oversizedAnswer sends one byte too many, and then bytes without end, with and
// without saying so before.
func oversizedAnswer(ctx context.Context, s REST) error {
	big := strings.Repeat("9", schema.MaxRawResponse+1)
	_, stated := s.failsOn(ctx, schema.CodeTooLarge, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(big)))
		write(w, http.StatusOK, big)
	})
	_, endless := s.failsOn(ctx, schema.CodeTooLarge, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, big); err != nil {
				return
			}
		}
	})
	return errors.Join(stated, endless)
}

// truncatedAnswer loses the connection in the middle of a body.
func truncatedAnswer(ctx context.Context, s REST) error {
	half := s.Answer[:len(s.Answer)/2]
	return s.eachRaw(ctx, map[string]string{
		"of a stated length":  fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(s.Answer), half),
		"in chunks":           fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(half), half),
		"before its headers":  "HTTP/1.1 200 OK\r\nContent-Le",
		"before anything":     "",
		"that will not begin": fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(s.Answer)),
	})
}

// notHTTP sends back the key in places where net/http quotes it.
func notHTTP(ctx context.Context, s REST) error {
	return s.eachRaw(ctx, map[string]string{
		"another protocol":   "SSH-2.0-" + key + "\r\n",
		"a broken status":    "HTTP/1.1 " + key + " OK\r\n\r\n",
		"a broken header":    "HTTP/1.1 200 OK\r\n" + key + "\r\n\r\n{}",
		"a broken length":    "HTTP/1.1 200 OK\r\nContent-Length: " + key + "\r\n\r\n{}",
		"a broken chunk":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + key + "\r\n{}\r\n",
		"headers of 16 MB":   "HTTP/1.1 200 OK\r\nX-Long: " + strings.Repeat("x", 16<<20) + "\r\n\r\n{}",
		"an unknown coding":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + key + "\r\n\r\n{}",
		"a broken redirect":  "HTTP/1.1 302 Found\r\nLocation: http://[" + key + "\r\nContent-Length: 0\r\n\r\n",
		"a redirect nowhere": "HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
	})
}

// eachRaw answers with bytes and hangs up. What results from it may be called
// unavailable or a bad response.
func (s REST) eachRaw(ctx context.Context, answers map[string]string) error {
	var errs []error
	for name, text := range answers {
		if err := s.failsOnRaw(ctx, text); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func (s REST) failsOnRaw(ctx context.Context, text string) error {
	p, err := s.open(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, text) // anyone who asked may be gone
		_ = conn.Close()
	})
	if err != nil {
		return err
	}
	defer p.close()
	raw, err := p.quote(ctx, s.Symbol)
	if err == nil {
		return fmt.Errorf("%d bytes", len(raw))
	}
	return checkCode(err, schema.CodeUnavailable, schema.CodeBadResponse)
}

// notJSON is an answer like any other to Quote; Normalize refuses it.
func notJSON(ctx context.Context, s REST) error {
	var errs []error
	for _, body := range []string{"<!doctype html><title>Sign in</title>", "OK", "\x1f\x8b\x08\x00", `{"cpu":0.5}`, `[1,2]`} {
		p, err := s.open(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
		if err != nil {
			return err
		}
		raw, err := p.quote(ctx, s.Symbol)
		if err == nil && string(raw) != body {
			err = fmt.Errorf("became %q", raw)
		}
		if err == nil {
			err = refuses(p.provider, p.suite().fetched(s.Symbol, raw))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("answer %q: %w", body, err))
		}
		p.close()
	}
	return errors.Join(errs...)
}

// keyInTheAnswer: answers are kept, and the key must not be.
func keyInTheAnswer(ctx context.Context, s REST) error {
	_, err := s.failsOn(ctx, schema.CodeBadResponse, func(w http.ResponseWriter, r *http.Request) {
		write(w, http.StatusOK, strings.TrimSuffix(s.Answer, "}")+`,"you":"`+s.sentKey(r)+`"}`)
	})
	return err
}

func connectionRefused(ctx context.Context, s REST) error {
	p, err := s.open(s.answer)
	if err != nil {
		return err
	}
	p.close()
	_, err = p.fails(ctx, schema.CodeUnavailable)
	return err
}

// deadlinePasses while there is no answer at all.
func deadlinePasses(ctx context.Context, s REST) error {
	p, err := s.open(hang)
	if err != nil {
		return err
	}
	defer p.close()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	_, err = p.fails(ctx, schema.CodeTimeout)
	return err
}

// cancelWhileAnswerComes ends a quote once its first bytes are under way.
func cancelWhileAnswerComes(ctx context.Context, s REST) error {
	for _, began := range []string{"", s.Answer[:len(s.Answer)/2]} {
		ctx, cancel := context.WithCancel(ctx)
		p, err := s.open(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, began) // anyone who asked may be gone
			_ = http.NewResponseController(w).Flush()
			cancel()
			hang(w, r)
		})
		if err != nil {
			cancel()
			return err
		}
		_, err = p.fails(ctx, schema.CodeTimeout)
		cancel()
		p.close()
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", len(began), err)
		}
	}
	return nil
}

// oneThatHangsDelaysNoOther asks while another quote is under way.
func oneThatHangsDelaysNoOther(ctx context.Context, s REST) error {
	hangs := make(chan struct{})
	p, err := s.open(func(w http.ResponseWriter, r *http.Request) {
		if names(r.RequestURI, hangingSymbol) {
			close(hangs)
		}
		s.answer(w, r)
	})
	if err != nil {
		return err
	}
	defer p.close()
	hanging, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := p.quote(hanging, hangingSymbol)
		ended <- err
	}()
	select {
	case <-hangs:
	case err := <-ended:
		return fmt.Errorf("a quote that should hang: %w", err)
	}
	if _, err := p.quote(ctx, s.Symbol); err != nil {
		return fmt.Errorf("next to a quote that hangs: %w", err)
	}
	select {
	case err := <-ended:
		return fmt.Errorf("a quote that should hang: %w", err)
	default:
	}
	cancel()
	return checkCode(<-ended, schema.CodeTimeout)
}
