package kafka_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/pricemill/pricemill/internal/tlstest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/schema"
)

// The login of these tests. Its signs mean something to SCRAM, and it is not in
// any of Unicode's normal forms.
const (
	username = "mill,er=1"
	password = "canary,=①\u00e9e\u0301"
)

// secureCluster starts a broker, with a login if there is a mechanism, and with
// TLS if there is a configuration.
func secureCluster(t *testing.T, mechanism kafka.Mechanism, conf *tls.Config, more ...kfake.Opt) (*kfake.Cluster, kafka.Config) {
	t.Helper()
	options := append([]kfake.Opt{kfake.NumBrokers(1)}, more...)
	if mechanism != "" {
		method := map[kafka.Mechanism]string{
			kafka.Plain: "PLAIN", kafka.ScramSHA256: "SCRAM-SHA-256", kafka.ScramSHA512: "SCRAM-SHA-512"}[mechanism]
		options = append(options, kfake.EnableSASL(), kfake.Superuser(method, username, password))
	}
	options = append(options, kfake.ListenFn(func(network, _ string) (net.Listener, error) {
		if conf != nil {
			return tls.Listen(network, "127.0.0.1:0", conf)
		}
		return net.Listen(network, "127.0.0.1:0")
	}))
	c, err := kfake.NewCluster(options...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	cfg := testConfig()
	cfg.Brokers = c.ListenAddrs()
	cfg.Timeout = patience
	cfg.Security.Protocol = map[bool]map[bool]kafka.Protocol{
		false: {false: kafka.PlainText, true: kafka.SSL},
		true:  {false: kafka.SASLPlainText, true: kafka.SASLSSL}}[mechanism != ""][conf != nil]
	if mechanism != "" {
		cfg.Security.Mechanism, cfg.Security.Username, cfg.Security.Password = mechanism, username, password
	}
	return c, cfg
}

func TestSecureConnections(t *testing.T) {
	t.Parallel()
	for _, mechanism := range []kafka.Mechanism{"", kafka.Plain, kafka.ScramSHA256, kafka.ScramSHA512} {
		for _, encrypted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s encrypted=%v", mechanism, encrypted), func(t *testing.T) {
				t.Parallel()
				var conf *tls.Config
				authority := tlstest.New(t)
				if encrypted {
					conf = &tls.Config{Certificates: []tls.Certificate{authority.Issue(t)}}
				}
				_, cfg := secureCluster(t, mechanism, conf)
				if encrypted {
					cfg.Security.CAFile = authority.File
				}
				useAll(t, cfg)
			})
		}
	}
}

func openBroker(t *testing.T, cfg kafka.Config) *kafka.Broker {
	t.Helper()
	b, err := kafka.New(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, b.Close()) })
	return b
}

// useAll opens every kind of connection there is.
func useAll(t *testing.T, cfg kafka.Config) {
	t.Helper()
	b := openBroker(t, cfg)
	topic := newTopic(t, b)
	send(t, b, at(topic, 1), numbered(0, 3)...)
	publisher, err := b.Publisher(kafka.PublisherConfig{})
	require.NoError(t, err)
	require.NoError(t, publisher.Publish(string(topic), message.NewMessage("id", []byte("published"))))

	offsets, err := b.Offsets(t.Context(), topic)
	require.NoError(t, err)
	var held int64
	for _, r := range offsets {
		held += r.End
	}
	assert.Equal(t, int64(4), held)
	var values []string
	require.NoError(t, b.Read(t.Context(), at(topic, 1), 0, 3, func(records []pipeline.Record) error {
		for _, r := range records {
			values = append(values, string(r.Value))
		}
		return nil
	}))
	assert.Equal(t, []string{"0", "1", "2"}, values)

	messages := subscribe(t, b, log.SubscriberConfig{Lanes: 1}, string(topic))
	for received := 0; received < 4; {
		msg, batch := receive(t, messages)
		received += len(batch.Records)
		msg.Ack()
	}
}

// count counts the requests of a kind that a cluster gets.
func count(c *kfake.Cluster, kind kmsg.Key) *atomic.Int64 {
	var n atomic.Int64
	c.ControlKey(kind.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		n.Add(1)
		return nil, nil, false
	})
	return &n
}

// TestReauthentication: brokers may end a login after a while
// (connections.max.reauth.ms); it is repeated on the same connection.
func TestReauthentication(t *testing.T) {
	t.Parallel()
	c, cfg := secureCluster(t, kafka.ScramSHA512, nil, kfake.BrokerConfigs(map[string]string{"connections.max.reauth.ms": "20"}))
	b := openBroker(t, cfg)
	topic := newTopic(t, b)
	send(t, b, at(topic, 0), numbered(0, 1)...)
	connections, logins := count(c, kmsg.ApiVersions), count(c, kmsg.SASLHandshake)
	require.Eventually(t, func() bool {
		send(t, b, at(topic, 0), numbered(0, 1)...)
		return logins.Load() >= 3
	}, patience, time.Millisecond)
	assert.Zero(t, connections.Load(), "new connections")
}

// TestMutualTLS: a broker that wants certificates gets ours, and a renewed one
// without a restart.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	authority := tlstest.New(t)
	seen := make(chan string, 1000)
	_, cfg := secureCluster(t, "", &tls.Config{Certificates: []tls.Certificate{authority.Issue(t)},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authority.Pool(),
		VerifyPeerCertificate: func(_ [][]byte, chains [][]*x509.Certificate) error {
			seen <- chains[0][0].Subject.CommonName
			return nil
		}})
	cfg.Security.CAFile = authority.File
	_, err := kafka.New(t.Context(), cfg)
	require.Error(t, err, "without a certificate")

	named := func(name string) tls.Certificate {
		return authority.Issue(t, func(c *x509.Certificate) { c.Subject.CommonName = name })
	}
	cfg.Security.CertFile, cfg.Security.KeyFile = tlstest.Files(t, named("first"))
	useAll(t, cfg)
	assert.Equal(t, "first", <-seen)
	b := openBroker(t, cfg)
	topic := newTopic(t, b)
	send(t, b, at(topic, 0), numbered(0, 1)...)
	certificate, key := tlstest.Files(t, named("renewed"))
	require.NoError(t, os.Rename(certificate, cfg.Security.CertFile))
	require.NoError(t, os.Rename(key, cfg.Security.KeyFile))
	require.NoError(t, b.Read(t.Context(), at(topic, 0), 0, 1, func([]pipeline.Record) error { return nil }))
	for name := ""; name != "renewed"; {
		name = wait(t, "a connection with the renewed certificate", seen)
	}

	cfg.Security.CertFile, cfg.Security.KeyFile = tlstest.Files(t, tlstest.New(t).Issue(t))
	_, err = kafka.New(t.Context(), cfg)
	require.Error(t, err, "a certificate of another authority")
}

// TestRefusals: what does not fit is an error at the first connection, which
// says what and holds no secret.
func TestRefusals(t *testing.T) {
	t.Parallel()
	authority := tlstest.New(t)
	issued := func(change ...func(*x509.Certificate)) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{authority.Issue(t, change...)}}
	}
	const hangup = "may want another security protocol, a certificate, or another login"
	for name, test := range map[string]struct {
		mechanism kafka.Mechanism
		server    *tls.Config
		change    func(*kafka.Security)
		want      string
	}{
		"wrong password, plain":         {kafka.Plain, nil, func(s *kafka.Security) { s.Password += "x" }, hangup},
		"wrong password, scram-sha-256": {kafka.ScramSHA256, issued(), func(s *kafka.Security) { s.Password += "x" }, hangup},
		"wrong password, scram-sha-512": {kafka.ScramSHA512, nil, func(s *kafka.Security) { s.Password += "x" }, hangup},
		"no login":                      {kafka.Plain, nil, func(s *kafka.Security) { *s = kafka.Security{} }, hangup},
		"no TLS here":                   {"", issued(), func(s *kafka.Security) { *s = kafka.Security{} }, hangup},
		"unknown authority":             {"", issued(), func(s *kafka.Security) { s.CAFile = tlstest.New(t).File }, "signed by unknown authority"},
		"authorities of the system":     {"", issued(), func(s *kafka.Security) { s.CAFile = "" }, "signed by unknown authority"},
		"expired":                       {"", issued(tlstest.Expired), func(*kafka.Security) {}, "expired"},
		"another name":                  {"", issued(), func(s *kafka.Security) { s.ServerName = "kafka.example" }, "kafka.example"},
		"an old TLS": {"", &tls.Config{Certificates: issued().Certificates, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11},
			func(*kafka.Security) {}, "protocol version"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, cfg := secureCluster(t, test.mechanism, test.server)
			if test.server != nil {
				cfg.Security.CAFile = authority.File
			}
			var log bytes.Buffer
			cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			test.change(&cfg.Security)
			ctx, cancel := context.WithTimeout(t.Context(), cfg.Timeout)
			defer cancel()
			_, err := kafka.New(ctx, cfg)
			require.ErrorContains(t, err, test.want)
			assert.NotContains(t, err.Error()+log.String(), "canary")
		})
	}
}

// answer has a cluster answer the next requests of a kind.
func answer(c *kfake.Cluster, kind kmsg.Key, f func(kmsg.Response)) {
	c.ControlKey(kind.Int16(), func(request kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		response := request.ResponseKind()
		f(response)
		return response, nil, true
	})
}

// TestRefusalsInWords: brokers of Apache Kafka answer before they hang up.
func TestRefusalsInWords(t *testing.T) {
	t.Parallel()
	const invalid = "Authentication failed during authentication due to invalid credentials"
	c, cfg := secureCluster(t, kafka.ScramSHA256, nil)
	b := openBroker(t, cfg)
	topic := newTopic(t, b)
	send(t, b, at(topic, 0), numbered(0, 1)...)

	// The login is revoked under a process that runs: its next connection fails
	// at once, not after all the time that it has.
	answer(c, kmsg.SASLAuthenticate, func(r kmsg.Response) {
		r.(*kmsg.SASLAuthenticateResponse).ErrorCode = kerr.SaslAuthenticationFailed.Code
		r.(*kmsg.SASLAuthenticateResponse).ErrorMessage = kmsg.StringPtr(invalid)
	})
	logins := count(c, kmsg.SASLHandshake)
	err := b.Read(t.Context(), at(topic, 0), 0, 1, func([]pipeline.Record) error { return nil })
	require.ErrorIs(t, err, sarama.ErrSASLAuthenticationFailed)
	require.ErrorContains(t, err, invalid)
	assert.EqualValues(t, 1, logins.Load(), "attempts")
	c.ControlKey(kmsg.Metadata.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		return nil, errors.New("hanging up"), true
	})
	err = b.Send(t.Context(), []log.PartitionBatch{{TopicPartition: at("another", 0), Records: numbered(0, 1)}})[0]
	require.ErrorIs(t, err, sarama.ErrSASLAuthenticationFailed)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
	_, err = kafka.New(t.Context(), cfg)
	require.ErrorIs(t, err, sarama.ErrSASLAuthenticationFailed)
	assert.NotContains(t, err.Error(), "canary")

	answer(c, kmsg.SASLHandshake, func(r kmsg.Response) {
		r.(*kmsg.SASLHandshakeResponse).ErrorCode = kerr.UnsupportedSaslMechanism.Code
	})
	_, err = kafka.New(t.Context(), cfg)
	require.ErrorIs(t, err, sarama.ErrUnsupportedSASLMechanism)
}

// TestCleartextStaysOnThisMachine: also where the cluster sends us elsewhere.
func TestCleartextStaysOnThisMachine(t *testing.T) {
	t.Parallel()
	c, cfg := secureCluster(t, kafka.Plain, nil)
	answer(c, kmsg.Metadata, func(r kmsg.Response) {
		broker := kmsg.NewMetadataResponseBroker()
		broker.Host, broker.Port = "192.0.2.1", 9092 // for documentation; no one has it
		r.(*kmsg.MetadataResponse).Brokers = append(r.(*kmsg.MetadataResponse).Brokers, broker)
	})
	_, err := openBroker(t, cfg).EnsureTopics(t.Context(), []schema.Topic{"elsewhere"})
	require.ErrorContains(t, err, "clear text")
	assert.NotErrorIs(t, err, context.DeadlineExceeded)

	cfg.Brokers = append(cfg.Brokers, "kafka.example:9092")
	require.ErrorContains(t, cfg.Validate(), "clear text")
	cfg.Security.AllowCleartext = true
	require.NoError(t, cfg.Validate())
	cfg.Security.AllowCleartext, cfg.Security.Mechanism = false, kafka.ScramSHA256
	require.NoError(t, cfg.Validate(), "the password does not travel")
}

func TestSecurityFaults(t *testing.T) {
	t.Parallel()
	authority := tlstest.New(t)
	certificate, key := tlstest.Files(t, authority.Issue(t))
	_, otherKey := tlstest.Files(t, authority.Issue(t))
	login := kafka.Security{Protocol: kafka.SASLPlainText, Mechanism: kafka.ScramSHA256, Username: username, Password: password}
	for name, test := range map[string]struct {
		security kafka.Security
		want     []string
	}{
		"nothing":             {kafka.Security{}, nil},
		"a login":             {login, nil},
		"TLS":                 {kafka.Security{Protocol: kafka.SSL, CAFile: authority.File, CertFile: certificate, KeyFile: key, ServerName: "x"}, nil},
		"unknown words":       {kafka.Security{Protocol: "tls", Mechanism: "gssapi"}, []string{"security.protocol", "sasl.mechanism"}},
		"a login without all": {kafka.Security{Protocol: kafka.SASLSSL}, []string{"sasl.mechanism", "sasl.username", "sasl.password"}},
		"user, no password":   {kafka.Security{Protocol: kafka.SASLSSL, Mechanism: kafka.Plain, Username: "me"}, []string{"sasl.password"}},
		"all for nothing": {kafka.Security{Mechanism: kafka.Plain, Username: "me", Password: password, CAFile: "a", CertFile: "b", KeyFile: "c", ServerName: "d"},
			[]string{"sasl.mechanism", "sasl.username", "sasl.password", "ssl.ca.file", "ssl.cert.file", "ssl.key.file", "ssl.server.name"}},
		"login with ssl":   {kafka.Security{Protocol: kafka.SSL, Username: "me", Password: password}, []string{"sasl.username", "sasl.password"}},
		"a NUL":            {kafka.Security{Protocol: kafka.SASLSSL, Mechanism: kafka.Plain, Username: "a\x00b", Password: password + "\x00"}, []string{"sasl.username", "sasl.password"}},
		"no key":           {kafka.Security{Protocol: kafka.SSL, CertFile: certificate}, []string{"ssl.key.file"}},
		"no certificate":   {kafka.Security{Protocol: kafka.SSL, KeyFile: key}, []string{"ssl.cert.file"}},
		"another's key":    {kafka.Security{Protocol: kafka.SSL, CertFile: certificate, KeyFile: otherKey}, []string{"ssl.cert.file"}},
		"missing files":    {kafka.Security{Protocol: kafka.SSL, CAFile: "none", CertFile: "none", KeyFile: "none"}, []string{"ssl.ca.file", "ssl.cert.file"}},
		"a key for the CA": {kafka.Security{Protocol: kafka.SSL, CAFile: key}, []string{"ssl.ca.file"}},
	} {
		var got []string
		for _, fault := range test.security.Faults([]string{"127.0.0.1:9092", "[::1]:9092", "localhost:9092"}) {
			got = append(got, fault.Setting)
			assert.NotContains(t, fault.Error(), "canary", name)
		}
		assert.Equal(t, test.want, got, name)
		cfg := testConfig()
		cfg.Security = test.security
		assert.Equal(t, test.want == nil, cfg.Validate() == nil, name)
	}
}
