package cmd_test

import (
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/proxytest"
)

// stopWithin is how long a stop may take: what runs containers kills after it.
const stopWithin = 10 * time.Second

// hung are the services that do not answer.
var hung = []struct {
	name string
	hang func(n network, how func(*proxytest.Proxy))
}{
	{"PostgreSQL", func(n network, how func(*proxytest.Proxy)) { how(n.postgres) }},
	{"Kafka", func(n network, how func(*proxytest.Proxy)) { how(n.kafka) }},
	{"PostgreSQL and Kafka", func(n network, how func(*proxytest.Proxy)) { how(n.postgres); how(n.kafka) }},
}

// TestFaultsStopWhileServicesHang stops a process under load and under questions
// while a service, or both, do not answer. It ends within ten seconds, and what it
// was at is done by the next one.
func TestFaultsStopWhileServicesHang(t *testing.T) {
	s := newScenario(t, "SIGTERM while a service hangs", servicesStack)
	env := newStack(t, outageSettings)
	n, detour := newNetwork(t, env)
	look := newObserver(t, env)
	answers := makeAnswers(s.random, pick(s, 300, 1800)*outageRate, time.Now())
	enough, fed := make(chan struct{}), make(chan int, 1)
	go func() { fed <- feedAt(t, env, answers, outageRate, enough) }()
	ways := []func(*proxytest.Proxy){
		(*proxytest.Proxy).Cut,
		func(p *proxytest.Proxy) { p.HalfOpen(proxytest.ToService) },
		func(p *proxytest.Proxy) { p.HalfOpen(proxytest.FromService) },
	}
	for way := range ways[:pick(s, 1, len(ways))] {
		for _, service := range hung {
			process, l := spawn(t, env.with(detour))
			l.await(t, "pipeline running")
			awaitSymbols(t, look)
			visitor := newVisitor("visitor", l.await(t, "listening")["url"].(string))
			pause(time.Duration(s.random.IntN(500)) * time.Millisecond)
			service.hang(n, ways[way])
			// At once, or when it has been noticed.
			pause(time.Duration(s.random.IntN(3000)) * time.Millisecond)
			t.Logf("%s hangs", service.name)
			s.recovered(stop(t, process, l))
			visitor.quit()
			n.postgres.Heal()
			n.kafka.Heal()
		}
	}
	close(enough)
	total := <-fed
	process, l := spawn(t, env)
	l.await(t, "pipeline running")
	s.check(env, answers[:total])
	stop(t, process, l)
}

// TestFaultsStopWhileStarting stops a process that waits for a service which does
// not answer.
func TestFaultsStopWhileStarting(t *testing.T) {
	s := newScenario(t, "SIGTERM while a start waits for a service", servicesStack)
	env := newStack(t, nil)
	n, detour := newNetwork(t, env)
	for _, service := range hung {
		service.hang(n, (*proxytest.Proxy).Cut)
		process, l := spawn(t, env.with(detour))
		pause(time.Duration(500+s.random.IntN(1500)) * time.Millisecond) // it has come as far as to wait
		t.Logf("%s hangs", service.name)
		s.recovered(stop(t, process, l))
		n.postgres.Heal()
		n.kafka.Heal()
	}
}

// stop has a process end by SIGTERM, and returns how long that took.
func stop(t *testing.T, process *exec.Cmd, l *logs) time.Duration {
	t.Helper()
	began := time.Now()
	require.NoError(t, process.Process.Signal(syscall.SIGTERM))
	ended := make(chan error, 1)
	go func() { ended <- process.Wait() }()
	select {
	case err := <-ended:
		require.NoError(t, err, "exit status 0:\n%s", l)
	case <-time.After(time.Minute):
		require.FailNow(t, "it does not stop", "%s", l)
	}
	took := time.Since(began)
	assert.Less(t, took, stopWithin, "%s", l)
	return took
}
