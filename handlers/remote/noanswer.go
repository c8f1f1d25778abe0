package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// ErrRedirect is for the CheckRedirect of a client, where a redirect is not followed.
var ErrRedirect = errors.New("redirect refused")

// NoAnswer says why there is no complete answer: a *pipeline.QuoteError for an
// error of net/http or net, of a request with this context. Errors of net/http may hold the
// URL and lines that the service sent, so their text is repeated only where it
// is known to come from this machine or from before anything was sent.
func NoAnswer(ctx context.Context, err error) error {
	var (
		network     net.Error
		lookup      *net.DNSError
		certificate *tls.CertificateVerificationError
		connection  *net.OpError
	)
	unavailable := func(reason string) error {
		return pipeline.Quotef(schema.CodeUnavailable, "%s", schema.CutReason(reason))
	}
	switch {
	case ctx.Err() != nil:
		return &pipeline.QuoteError{Code: schema.CodeTimeout, Reason: "no answer in time", Err: ctx.Err()}
	case errors.As(err, &network) && network.Timeout():
		// Connecting took too long, or the end of ctx was noticed down there first.
		return pipeline.Quotef(schema.CodeTimeout, "no answer in time")
	case errors.Is(err, ErrRedirect):
		return pipeline.Quotef(schema.CodeBadResponse, "it redirects to another host, or in a circle")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return unavailable("the answer was cut off")
	case errors.As(err, &lookup):
		return unavailable("no address: " + lookup.Err)
	case errors.As(err, &certificate):
		return unavailable("no trust: " + certificate.Err.Error())
	case errors.As(err, &connection):
		return unavailable("no connection: " + connection.Err.Error())
	}
	return unavailable("the connection broke, or what came is not HTTP")
}
