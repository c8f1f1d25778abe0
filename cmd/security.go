package cmd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/knadh/koanf/v2"

	"github.com/pricemill/pricemill/pipeline/log/kafka"
)

// maxSecret bounds the file of a secret, in bytes.
const maxSecret = 64 << 10

// fromEnvironment looks a setting up; an empty variable counts as none, since
// compose files pass those. A secret can be read from a file that NAME_FILE names
// instead.
func (a *app) fromEnvironment(s setting, wrong *faults) string {
	name := strings.ToUpper(s.key)
	value, _ := a.env(name)
	path, _ := a.env(name + "_FILE")
	if !s.secret || path == "" {
		return value
	}
	if value != "" {
		wrong.add(s.key, "%s_FILE is set too: only one of them can be meant", name)
		return ""
	}
	value, err := readSecret(path)
	if err != nil {
		wrong.add(s.key+"_file", "%v", err)
	}
	return value
}

// readSecret reads a file, also one that is a pipe. No error holds what is in it.
func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	content, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	secret := strings.TrimSuffix(string(content), "\n")
	switch {
	case len(content) > maxSecret:
		return "", fmt.Errorf("%s is larger than %d bytes", path, maxSecret)
	case secret == "":
		return "", fmt.Errorf("%s is empty", path)
	}
	return secret, nil
}

// readSecurity reads how brokers are reached. The words are Kafka's, in any case.
func (c *config) readSecurity(k *koanf.Koanf, wrong *faults) {
	c.Security = kafka.Security{
		Protocol:       kafka.Protocol(strings.ToLower(k.String("kafka_security_protocol"))),
		Mechanism:      kafka.Mechanism(strings.ToLower(k.String("kafka_sasl_mechanism"))),
		Username:       k.String("kafka_sasl_username"),
		Password:       k.String("kafka_sasl_password"),
		AllowCleartext: boolean(k, "kafka_sasl_allow_cleartext", wrong),
		CAFile:         k.String("kafka_ssl_ca_file"),
		CertFile:       k.String("kafka_ssl_cert_file"),
		KeyFile:        k.String("kafka_ssl_key_file"),
		ServerName:     k.String("kafka_ssl_server_name"),
	}
	if len(c.Brokers) == 0 {
		if c.Security != (kafka.Security{}) && c.Security != (kafka.Security{Protocol: kafka.PlainText}) {
			wrong.add("kafka_security_protocol", "there is no Kafka to log in to: "+
				"set KAFKA_BOOTSTRAP_SERVERS, or none of KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_… and KAFKA_SSL_…")
		}
		return
	}
	for _, fault := range c.Security.Faults(c.Brokers) {
		wrong.add("kafka_"+strings.ReplaceAll(fault.Setting, ".", "_"), "%s", fault.Reason)
	}
}
