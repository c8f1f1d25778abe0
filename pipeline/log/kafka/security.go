package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"
)

// Protocol is how a connection to a broker is protected, in Kafka's own words.
type Protocol string

// The protocols. SSL stands for TLS 1.2 or newer.
const (
	PlainText     Protocol = "plaintext"      // neither
	SSL           Protocol = "ssl"            // encrypted, brokers verified
	SASLPlainText Protocol = "sasl_plaintext" // begins with a login
	SASLSSL       Protocol = "sasl_ssl"       // both
)

var protocols = []Protocol{PlainText, SSL, SASLPlainText, SASLSSL}

func (p Protocol) tls() bool  { return p == SSL || p == SASLSSL }
func (p Protocol) sasl() bool { return p == SASLPlainText || p == SASLSSL }

// Mechanism is how a login goes.
type Mechanism string

// The mechanisms. With SCRAM (RFC 5802) the password does not travel, and the
// broker proves that it knows it too.
const (
	Plain       Mechanism = "plain"
	ScramSHA256 Mechanism = "scram-sha-256"
	ScramSHA512 Mechanism = "scram-sha-512"
)

var mechanisms = []Mechanism{Plain, ScramSHA256, ScramSHA512}

// Security says how connections to brokers are protected, and whose they are.
// The zero value is plain text, and no one's.
type Security struct {
	// Protocol is one of the constants. Empty means PlainText.
	Protocol Protocol
	// Mechanism, Username and Password are the login. All are required with
	// SASLPlainText and SASLSSL, and refused without. Username and password are
	// sent byte by byte as they are here, as Kafka's own clients do: what looks
	// the same may differ in Unicode's normal form.
	Mechanism Mechanism
	Username  string
	Password  string
	// AllowCleartext lets Plain send the password without TLS to addresses
	// beyond loopback, where everybody on the way can read it.
	AllowCleartext bool
	// CAFile holds the certificates (PEM) of the authorities that brokers'
	// certificates must come from. Empty means those of the system.
	CAFile string
	// CertFile and KeyFile are this client's certificate, with those between it
	// and its authority, and its key (PEM, not encrypted), for brokers that ask
	// for one. They are read for each connection, so that a renewed one is used
	// without a restart. Both or neither.
	CertFile string
	KeyFile  string
	// ServerName is whom brokers' certificates must be for. Empty means the host
	// by which each broker is reached. It holds for all brokers.
	ServerName string
}

// Fault is what is wrong with one setting of a Security.
type Fault struct {
	// Setting is its name as properties of Kafka are written, such as
	// sasl.password.
	Setting string
	// Reason holds no secret.
	Reason string
}

func (f Fault) Error() string { return f.Setting + ": " + f.Reason }

// errCleartext is wrapped where a connection would give the password away.
var errCleartext = errors.New("the mechanism plain would send the password in clear text beyond loopback: " +
	"use TLS or SCRAM, or allow it")

// Faults reports all that is wrong, for brokers at these addresses. It reads the
// files.
func (s Security) Faults(brokers []string) []Fault {
	var faults []Fault
	fault := func(bad bool, setting, format string, args ...any) {
		if bad {
			faults = append(faults, Fault{setting, fmt.Sprintf(format, args...)})
		}
	}
	setDefault(&s.Protocol, PlainText)
	known := slices.Contains(protocols, s.Protocol)
	fault(!known, "security.protocol", "%q is none of %q", s.Protocol, protocols)
	fault(s.Mechanism != "" && !slices.Contains(mechanisms, s.Mechanism), "sasl.mechanism", "%q is none of %q", s.Mechanism, mechanisms)
	for _, login := range []struct{ setting, value string }{
		{"sasl.mechanism", string(s.Mechanism)}, {"sasl.username", s.Username}, {"sasl.password", s.Password},
	} {
		fault(s.Protocol.sasl() && login.value == "", login.setting, "required with the protocol %s", s.Protocol)
		fault(known && !s.Protocol.sasl() && login.value != "", login.setting, "of no use with the protocol %s", s.Protocol)
		fault(strings.ContainsRune(login.value, 0), login.setting, "holds a NUL")
	}
	for _, file := range []struct{ setting, value string }{
		{"ssl.ca.file", s.CAFile}, {"ssl.cert.file", s.CertFile}, {"ssl.key.file", s.KeyFile}, {"ssl.server.name", s.ServerName},
	} {
		fault(known && !s.Protocol.tls() && file.value != "", file.setting, "of no use with the protocol %s", s.Protocol)
	}
	remote := slices.IndexFunc(brokers, func(address string) bool { return !isLoopback(address) })
	fault(s.sendsCleartext() && remote >= 0, "sasl.mechanism", "%v", errCleartext)
	if s.Protocol.tls() {
		_, more := s.tlsConfig()
		faults = append(faults, more...)
	}
	return faults
}

// sendsCleartext says whether anyone who is on the way reads the password.
func (s Security) sendsCleartext() bool {
	return s.Protocol == SASLPlainText && s.Mechanism == Plain && !s.AllowCleartext
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// tlsConfig reads the files. With faults, the result trusts less, never more.
func (s Security) tlsConfig() (*tls.Config, []Fault) {
	var faults []Fault
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.ServerName}
	if s.CAFile != "" {
		conf.RootCAs = x509.NewCertPool()
		pem, err := os.ReadFile(s.CAFile)
		switch {
		case err != nil:
			faults = append(faults, Fault{"ssl.ca.file", err.Error()})
		case !conf.RootCAs.AppendCertsFromPEM(pem):
			faults = append(faults, Fault{"ssl.ca.file", s.CAFile + " holds no certificate in PEM"})
		}
	}
	switch {
	case s.CertFile == "" && s.KeyFile == "":
		return conf, faults
	case s.KeyFile == "":
		return conf, append(faults, Fault{"ssl.key.file", "required with a certificate"})
	case s.CertFile == "":
		return conf, append(faults, Fault{"ssl.cert.file", "required with a key"})
	}
	// Unlike Certificates, this is sent whatever authorities the broker names:
	// its refusal says more than a missing certificate would.
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
		return &pair, err
	}
	if _, err := conf.GetClientCertificate(nil); err != nil {
		faults = append(faults, Fault{"ssl.cert.file", fmt.Sprintf("reading it with its key %s: %v", s.KeyFile, err)})
	}
	return conf, faults
}

// apply makes all connections of conf secure.
func (s Security) apply(conf *sarama.Config) {
	if s.Protocol.tls() {
		conf.Net.TLS.Enable = true
		// Faults reported what is wrong with the files. Where one is gone since,
		// no broker can be verified, and none is trusted.
		conf.Net.TLS.Config, _ = s.tlsConfig()
	}
	if !s.Protocol.sasl() {
		return
	}
	conf.Net.SASL.Enable = true
	conf.Net.SASL.User, conf.Net.SASL.Password = s.Username, s.Password
	conf.Net.SASL.Mechanism = sarama.SASLMechanism(strings.ToUpper(string(s.Mechanism)))
	switch s.Mechanism {
	case ScramSHA256:
		conf.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &conversation{hash: scram.SHA256} }
	case ScramSHA512:
		conf.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &conversation{hash: scram.SHA512} }
	}
}

// refuseRemote lets a net.Dialer reach loopback addresses only.
func refuseRemote(_, address string, _ syscall.RawConn) error {
	if !isLoopback(address) {
		return errCleartext
	}
	return nil
}

// conversation is one login by SCRAM.
type conversation struct {
	hash scram.HashGeneratorFcn
	*scram.ClientConversation
}

var _ sarama.SCRAMClient = (*conversation)(nil)

// Begin implements sarama.SCRAMClient. Unprepped: brokers do not normalize what
// they are given either.
func (c *conversation) Begin(username, password, authzID string) error {
	client, err := c.hash.NewClientUnprepped(username, password, authzID)
	if err != nil {
		return fmt.Errorf("beginning a login: %w", err)
	}
	c.ClientConversation = client.NewConversation()
	return nil
}
