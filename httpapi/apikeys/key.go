// Package apikeys makes, stores and recognizes the keys of clients of the API.
//
// A key is pm_ID_SECRET. ID names it in lists and logs; SECRET is 256 random bits. The
// database has the SHA-256 of the whole. A slow hash would protect passwords that can be
// guessed; no one guesses 256 bits, and each request is to pay as little as possible.
package apikeys

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pricemill/pricemill/schema"
)

// Scope is what a key allows. Each includes those before it in Scopes.
type Scope string

// The scopes that there are.
const (
	// Read is to read prices, jobs and everything else that the API tells.
	Read Scope = "read"
	// Command is to start and stop polling jobs and streams.
	Command Scope = "command"
	// Admin is to rebuild read models, and to retry and discard dead letters.
	Admin Scope = "admin"
)

// Scopes are all there are, from the smallest to the largest.
var Scopes = []Scope{Read, Command, Admin}

// Includes reports whether a key of scope s may do what needs another one.
func (s Scope) Includes(needed Scope) bool {
	return slices.Index(Scopes, s) >= slices.Index(Scopes, needed)
}

// Key is what is known of a key. It does not hold the secret.
type Key struct {
	// ID is part of the key itself.
	ID    string `db:"key_id" json:"id"`
	Name  string `db:"name" json:"name"`
	Scope Scope  `db:"scope" json:"scope"`
	// RatePerMinute is how many requests the key allows each minute; 0 means the limit
	// that clients without a key have.
	RatePerMinute int         `db:"rate_per_minute" json:"rate_per_minute,omitempty"`
	CreatedAt     schema.Time `db:"created_at" json:"created_at"`
	// LastUsedAt is exact to a minute, and nil for a key that was never used.
	LastUsedAt *schema.Time `db:"last_used_at" json:"last_used_at"`
	// RevokedAt is nil for a key that is valid.
	RevokedAt *schema.Time `db:"revoked_at" json:"revoked_at,omitempty"`
}

// What a key consists of: letters and digits that no shell or URL changes.
const (
	prefix       = "pm_"
	idLength     = 8
	secretBytes  = 32
	secretLength = 52
	keyLength    = len(prefix) + idLength + 1 + secretLength
)

var alphabet = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// generate makes a key.
func generate() (id, secret string) {
	random := make([]byte, 5+secretBytes)
	_, _ = rand.Read(random) // never fails
	id = alphabet.EncodeToString(random[:5])
	return id, prefix + id + "_" + alphabet.EncodeToString(random[5:])
}

// idOf is the id within a key; false for a text that is none.
func idOf(secret string) (string, bool) {
	if len(secret) != keyLength || !strings.HasPrefix(secret, prefix) || secret[len(prefix)+idLength] != '_' {
		return "", false
	}
	return secret[len(prefix) : len(prefix)+idLength], true
}

type digest [sha256.Size]byte

func hash(secret string) digest { return sha256.Sum256([]byte(secret)) }

// equals takes the same time whatever the difference is.
func (d digest) equals(stored []byte) bool { return subtle.ConstantTimeCompare(d[:], stored) == 1 }

// maxName is how long the name of a key may be, in bytes.
const maxName = 64

// Errors of Create, Revoke and Forget.
var (
	// ErrName is about a name that no key can have.
	ErrName = errors.New("invalid name of an API key")
	// ErrTaken says that a valid key has the name.
	ErrTaken = errors.New("there is a valid API key of this name")
	// ErrNone says that no valid key has the name or id.
	ErrNone = errors.New("there is no valid API key of this name or id")
	// ErrValid says that a key is still valid.
	ErrValid = errors.New("an API key is still valid")
)

func checkName(name string) error {
	if name == "" || len(name) > maxName ||
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_@") != "" {
		return fmt.Errorf("%w: %q is not 1 to %d letters, digits, dots, hyphens, underscores and @", ErrName, name, maxName)
	}
	return nil
}
