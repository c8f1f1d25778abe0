package providertest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// asksAsDocumented looks at the request of a good quote: the key is in its
// header and nowhere else.
func asksAsDocumented(ctx context.Context, s REST) error {
	p, err := s.open(s.answer)
	if err != nil {
		return err
	}
	defer p.close()
	if _, err := p.quote(ctx, s.Symbol); err != nil {
		return err
	}
	asked := p.asked()
	if len(asked) != 1 {
		return fmt.Errorf("%d requests for one quote", len(asked))
	}
	return s.checkRequest(asked[0])
}

func (s REST) checkRequest(r *http.Request) error {
	var errs []error
	if r.Method != http.MethodGet {
		errs = append(errs, fmt.Errorf("method %s", r.Method))
	}
	if got := r.UserAgent(); got != "pricemill/"+version {
		errs = append(errs, fmt.Errorf("User-Agent %q", got))
	}
	if strings.Contains(r.RequestURI, key) != (s.KeyQuery != "") {
		errs = append(errs, errors.New("the key is in the URL, or is not where it should be"))
	}
	for name, values := range r.Header {
		if strings.Contains(strings.Join(values, " "), key) != (s.KeyHeader != "" && name == http.CanonicalHeaderKey(s.KeyHeader)) {
			errs = append(errs, fmt.Errorf("header %s and the key", name))
		}
	}
	if s.KeyHeader != "" && r.Header.Get(s.KeyHeader) != s.KeyPrefix+key {
		errs = append(errs, fmt.Errorf("header %s does not hold the key", s.KeyHeader))
	}
	if s.IDHeader != "" && r.Header.Get(s.IDHeader) != keyID {
		errs = append(errs, fmt.Errorf("header %s does not hold the id of the key", s.IDHeader))
	}
	return errors.Join(errs...)
}

// redirectElsewhere points to another server, and to another name of this one:
// neither is asked, let alone with the key.
func redirectElsewhere(ctx context.Context, s REST) error {
	var strayed atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		strayed.Add(1)
		write(w, http.StatusOK, s.Answer)
	}))
	defer elsewhere.Close()
	var errs []error
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, target := range []func(r *http.Request) string{
			func(*http.Request) string { return elsewhere.URL + "/quote" },
			func(r *http.Request) string {
				return strings.Replace("http://"+r.Host, "127.0.0.1", "localhost", 1) + "/quote"
			},
			func(r *http.Request) string { return "https://" + r.Host + "/quote" },
		} {
			p, err := s.open(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", target(r))
				write(w, status, "")
			})
			if err != nil {
				return err
			}
			_, err = p.fails(ctx, schema.CodeBadResponse)
			if n := len(p.asked()); n != 1 {
				err = errors.Join(err, fmt.Errorf("%d requests", n))
			}
			errs = append(errs, err)
			p.close()
		}
	}
	if n := strayed.Load(); n != 0 {
		errs = append(errs, fmt.Errorf("another host was asked %d times", n))
	}
	return errors.Join(errs...)
}

// redirectWithinTheHost is followed, but not forever.
func redirectWithinTheHost(ctx context.Context, s REST) error {
	p, err := s.open(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved" {
			write(w, http.StatusOK, s.Answer)
			return
		}
		http.Redirect(w, r, "/moved", http.StatusFound)
	})
	if err != nil {
		return err
	}
	defer p.close()
	raw, err := p.quote(ctx, s.Symbol)
	if err != nil || string(raw) != s.Answer {
		return fmt.Errorf("a redirect within the host: %q, %w", raw, err)
	}
	for _, r := range p.asked() {
		if s.KeyHeader != "" && r.Header.Get(s.KeyHeader) != s.KeyPrefix+key {
			return errors.New("the redirect lost the key")
		}
	}
	_, err = s.failsOn(ctx, schema.CodeBadResponse, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Path, http.StatusFound)
	})
	return err
}

// withoutKey: the provider is there, says what is missing, and asks no one.
func withoutKey(ctx context.Context, s REST) error {
	p, err := s.open(s.answer)
	if err != nil {
		return err
	}
	defer p.close()
	for _, none := range []string{"", " \n"} {
		if p.provider, err = s.New(s.env(p.server.URL, none, p.log)); err != nil {
			return fmt.Errorf("without a key: %w", err)
		}
		if _, err := p.fails(ctx, schema.CodeNotConfigured); err != nil {
			return fmt.Errorf("without a key: %w", err)
		}
	}
	if n := len(p.asked()); n != 0 {
		return fmt.Errorf("%d requests without a key", n)
	}
	return nil
}

func wrongSettings(_ context.Context, s REST) error {
	var errs []error
	refuses := func(baseURL, apiKey string) {
		_, err := s.New(s.env(baseURL, apiKey, &logBook{}))
		switch {
		case err == nil:
			errs = append(errs, fmt.Errorf("base URL %q, key %q: no error", baseURL, apiKey))
		case strings.Contains(err.Error(), key):
			errs = append(errs, fmt.Errorf("base URL %q: the error holds a secret", baseURL))
		}
	}
	for _, baseURL := range []string{"", "service", "http://service.example", "ftp://service.example", "https://", "https://:443",
		"https://user:" + key + "@service.example", "https://service.example?token=" + key, "https://service.example/#" + key,
		"https://service.example:port" + key, "http://127.0.0.1.example"} {
		refuses(baseURL, "")
	}
	if s.hasKey() {
		refuses("https://service.example", key+"\r\nX-Other: 1")
	}
	env := s.env("https://service.example", key, &logBook{})
	env.Settings["no_such_setting"] = 1
	if _, err := s.New(env); err == nil {
		errs = append(errs, errors.New("a setting that there is not: no error"))
	}
	return errors.Join(errs...)
}

// statesItsLimits is for a provider that is a pipeline.Limited: one whose service
// has no limits need not be.
func statesItsLimits(_ context.Context, s REST) error {
	p, err := s.New(s.env("https://service.example", key, &logBook{}))
	if err != nil {
		return err
	}
	limited, ok := p.(pipeline.Limited)
	if !ok {
		return nil
	}
	if len(limited.Limits()) == 0 {
		return errors.New("it is a pipeline.Limited, and states no limits: let Limits return them, or leave the method out")
	}
	for _, limit := range limited.Limits() {
		if limit.Calls < 1 || limit.Per <= 0 {
			return fmt.Errorf("limit %v", limit)
		}
	}
	return nil
}
