package cmd_test

import (
	"math/rand/v2"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/proxytest"
)

// The listener of Kafka that says it is reached by another address, and that
// address; see .ci/services.
const (
	listenerVariable   = "KAFKA_PROXIED_LISTENER"
	advertisedVariable = "KAFKA_PROXIED_ADVERTISED"
)

// network is what lies between an installation and its services.
type network struct{ postgres, kafka *proxytest.Proxy }

// newNetwork puts proxies before the services of env, and returns the settings
// that lead through them.
func newNetwork(t testing.TB, env environment) (network, environment) {
	t.Helper()
	address, err := url.Parse(env["DATABASE_URL"])
	require.NoError(t, err)
	listener, advertised := os.Getenv(listenerVariable), os.Getenv(advertisedVariable)
	require.NotEmpty(t, listener, "%s is set, but %s is not", servicesVariable, listenerVariable)
	n := network{proxytest.New(t, "127.0.0.1:0", address.Host), proxytest.New(t, advertised, listener)}
	address.Host = n.postgres.Addr()
	return n, environment{"DATABASE_URL": address.String(), "KAFKA_BOOTSTRAP_SERVERS": n.kafka.Addr()}
}

// ills are what befalls a proxy. Each lasts until it is healed, and a half-open
// connection for as long as it lives.
var ills = []struct {
	name   string
	befall func(p *proxytest.Proxy, random *rand.Rand)
}{
	{"cut", func(p *proxytest.Proxy, _ *rand.Rand) { p.Cut() }},
	{"refused", func(p *proxytest.Proxy, _ *rand.Rand) { p.Refuse() }},
	{"reset", func(p *proxytest.Proxy, _ *rand.Rand) { p.Reset() }},
	{"late", func(p *proxytest.Proxy, random *rand.Rand) {
		p.Delay(time.Duration(20+random.IntN(200))*time.Millisecond, time.Duration(random.IntN(20))*time.Millisecond)
	}},
	{"narrow", func(p *proxytest.Proxy, random *rand.Rand) { p.Limit(50 + random.IntN(500)) }},
	{"half open to the service", func(p *proxytest.Proxy, _ *rand.Rand) { p.HalfOpen(proxytest.ToService) }},
	{"half open from the service", func(p *proxytest.Proxy, _ *rand.Rand) { p.HalfOpen(proxytest.FromService) }},
}

// impatient are settings by which what hangs is noticed sooner than by default,
// for a short run.
var impatient = environment{"DATABASE_TIMEOUT": "5s", "KAFKA_TIMEOUT": "3s", "KAFKA_SESSION_TIMEOUT": "6s"}

// TestFaultsNetworkPostgres has the network to PostgreSQL misbehave in all ways,
// by turns as the seed has them.
func TestFaultsNetworkPostgres(t *testing.T) {
	misbehave(t, "network to PostgreSQL: cut, refused, reset, late, narrow, half open", func(n network) *proxytest.Proxy { return n.postgres })
}

// TestFaultsNetworkKafka does so with that to Kafka.
func TestFaultsNetworkKafka(t *testing.T) {
	misbehave(t, "network to Kafka: cut, refused, reset, late, narrow, half open", func(n network) *proxytest.Proxy { return n.kafka })
}

// misbehave has a network misbehave for a minute, or some seconds, without a pause
// for anything to recover in between, and then waits for that.
func misbehave(t *testing.T, name string, victim func(network) *proxytest.Proxy) {
	s := newScenario(t, name, servicesStack)
	env := newStack(t, outageSettings)
	n, detour := newNetwork(t, env)
	o := newOutage(s, env, detour.with(pick(s, impatient, nil)))
	proxy := victim(n)
	// Each ill once, in any order, and then any.
	turns := s.random.Perm(len(ills))
	lasting, befallen := pick(s, 5*time.Second, time.Minute), 0
	for began := time.Now(); time.Since(began) < lasting || len(turns) > 0; befallen++ {
		if len(turns) == 0 {
			turns = append(turns, s.random.IntN(len(ills)))
		}
		ill := ills[turns[0]]
		turns = turns[1:]
		lasts := time.Duration(300+s.random.IntN(pick(s, 1000, 6000))) * time.Millisecond
		t.Logf("%v: %s for %v", since(began), ill.name, lasts)
		ill.befall(proxy, s.random)
		pause(lasts)
		proxy.Heal()
	}
	o.recovers(time.Now())
	s.cycles = befallen
	o.end()
}

// TestFaultsNetworkHalfOpen loses at once what all connections to a service send
// in one direction, while they stay open and new ones are well, and waits until
// that is noticed and everything applied.
func TestFaultsNetworkHalfOpen(t *testing.T) {
	s := newScenario(t, "all connections half open", servicesStack)
	env := newStack(t, outageSettings)
	n, detour := newNetwork(t, env)
	o := newOutage(s, env, detour.with(pick(s, impatient, nil)))
	directions := []proxytest.Direction{proxytest.ToService, proxytest.FromService}
	for range pick(s, 1, 5) {
		for service, proxy := range []*proxytest.Proxy{n.postgres, n.kafka} {
			o.awaitLoad()
			d := directions[s.random.IntN(2)]
			t.Logf("%s: what goes %s is lost", hung[service].name, d)
			proxy.HalfOpen(d)
			o.recovers(time.Now())
		}
	}
	o.end()
}
