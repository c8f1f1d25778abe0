package cmd

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"
)

// certificate is that of the HTTP API, read from files. A renewed one is used for the
// connections after it, without a restart. It is safe for concurrent use.
type certificate struct {
	certFile, keyFile string

	mu     sync.Mutex
	pair   *tls.Certificate
	stamps [2]time.Time // when the files were written that pair is of
}

// openCertificate reads the files, so that what is wrong with them ends the start.
func openCertificate(certFile, keyFile string) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile}
	_, err := c.get(nil)
	return c, err
}

// get reads the files again where they changed. While they do not fit each other, as in the
// midst of a renewal, it gives what they had before.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stamps, err := [2]time.Time{}, error(nil)
	for i, name := range []string{c.certFile, c.keyFile} {
		info, statErr := os.Stat(name)
		if statErr != nil {
			err = errors.Join(err, statErr)
			continue
		}
		stamps[i] = info.ModTime()
	}
	if err == nil && c.pair != nil && stamps == c.stamps {
		return c.pair, nil
	}
	if err == nil {
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(c.certFile, c.keyFile); err == nil {
			c.pair, c.stamps = &pair, stamps
		}
	}
	if c.pair == nil {
		return nil, err
	}
	return c.pair, nil
}

// serverConfig is HTTP/2 or HTTP/1.1 over TLS 1.2 or newer.
func (c *certificate) serverConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: c.get}
}

// leafOf is the certificate in a file, without those that signed it.
func leafOf(file string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			return block.Bytes, nil
		}
	}
	return nil, fmt.Errorf("%s holds no certificate", file)
}

// trustOwn returns a transport that takes the certificate in a file for the service's,
// whatever its name and its authority: with the same settings, on this machine,
// it is the one. The system's authorities verify all others.
func trustOwn(transport *http.Transport, certFile string) *http.Transport {
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection: func(state tls.ConnectionState) error {
			own, err := leafOf(certFile)
			if err == nil && bytes.Equal(own, state.PeerCertificates[0].Raw) {
				return nil
			}
			options := x509.VerifyOptions{DNSName: state.ServerName, Intermediates: x509.NewCertPool()}
			for _, one := range state.PeerCertificates[1:] {
				options.Intermediates.AddCert(one)
			}
			_, err = state.PeerCertificates[0].Verify(options)
			return err
		}}
	return transport
}
