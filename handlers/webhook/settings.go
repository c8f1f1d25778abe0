package webhook

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/pricemill/pricemill/handlers/remote"
)

// Settings of both handlers.
type Settings struct {
	// URL is https, or http to this machine. It may hold a token, so it is in no log.
	URL        string        `mapstructure:"url" doc:"where events are posted; https, or http to this machine"`
	SecretFile string        `mapstructure:"secret_file" doc:"file with the secret that signs requests, whsec_ and base64; empty: no signature"`
	Symbols    []string      `mapstructure:"symbols" doc:"events of these alone, each [provider/]SYMBOL; empty: all"`
	Batch      int           `mapstructure:"batch" doc:"most events in a request, 1 to 500; with more than one the body is an array"`
	Timeout    time.Duration `mapstructure:"timeout" doc:"how long the receiver may take to answer, 100ms to 60s"`
	MaxAge     time.Duration `mapstructure:"max_age" doc:"events that have been in the log for longer are not posted; 0: all are"`
}

// defaults leave out what was in the log long before the webhook was switched on.
var defaults = Settings{Batch: 1, Timeout: 10 * time.Second, MaxAge: 24 * time.Hour}

// The bounds of the settings.
const (
	maxBatch   = 500
	minTimeout = 100 * time.Millisecond
	maxTimeout = time.Minute
	// minSecret and maxSecret are in bytes, as Standard Webhooks has them.
	minSecret = 24
	maxSecret = 64
)

// parseURL reads the URL. It is not in the error, since it may hold a token.
func (h *handler) parseURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return errors.New("url: not a URL such as https://example.com/hook")
	}
	base := url.URL{Scheme: u.Scheme, Host: u.Host}
	if _, err := remote.ParseBaseURL(base.String()); err != nil {
		return fmt.Errorf("url: %w", err)
	}
	h.url, h.host = u.String(), u.Host
	return nil
}

// readSecret reads the secret of a file, which may end in a new line.
func (h *handler) readSecret(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("secret_file: %w", err)
	}
	encoded, isSecret := strings.CutPrefix(strings.TrimSpace(string(text)), "whsec_")
	if !isSecret {
		return fmt.Errorf("secret_file: %s does not begin with whsec_", path)
	}
	secret, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return fmt.Errorf("secret_file: %s: what follows whsec_ is not base64", path)
	}
	if len(secret) < minSecret || len(secret) > maxSecret {
		return fmt.Errorf("secret_file: %s: want %d to %d bytes, not %d", path, minSecret, maxSecret, len(secret))
	}
	h.signer, err = standardwebhooks.NewWebhookRaw(secret)
	return err
}
