// Package proxytest puts a network that misbehaves between a process and a
// service, for tests.
package proxytest

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// Direction is where data goes.
type Direction string

// The directions, as seen from the process.
const (
	ToService   Direction = "upstream"
	FromService Direction = "downstream"
)

// Proxy passes connections on to a service, well or badly. Its methods are to be
// called one after the other.
type Proxy struct {
	t     testing.TB
	proxy *toxiproxy.Proxy
	n     int      // toxics that were ever added
	added []string // what Heal removes
}

// New listens on an address, until the test ends, for connections to a service.
func New(t testing.TB, listen, service string) *Proxy {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := &Proxy{t: t, proxy: toxiproxy.NewProxy(server, "test", listen, service)}
	require.NoError(t, p.proxy.Start())
	t.Cleanup(p.proxy.Stop)
	// These do nothing: they have no toxicity. But a connection that begins with
	// one is closed by a reset instead of a farewell.
	for _, d := range []Direction{ToService, FromService} {
		p.add(d, "reset_peer", 0, nil)
	}
	p.added = nil
	return p
}

// Left are the goroutines that toxiproxy leaves behind forever where one side of a
// connection went while data was on its way to it.
func Left() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"),
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).read"),
	}
}

// Addr is where the proxy listens.
func (p *Proxy) Addr() string { return p.proxy.Listen }

// Reset ends all connections by a reset, and takes new ones.
func (p *Proxy) Reset() {
	p.t.Helper()
	p.proxy.Stop()
	require.NoError(p.t, p.proxy.Start())
}

// Refuse resets all connections and takes no new ones, until Heal.
func (p *Proxy) Refuse() { p.proxy.Stop() }

// Cut loses all that is sent on present and new connections, until Heal, which
// ends them.
func (p *Proxy) Cut() {
	p.t.Helper()
	for _, d := range []Direction{ToService, FromService} {
		p.added = append(p.added, p.add(d, "timeout", 1, map[string]int{"timeout": 0}))
	}
}

// Delay holds up all that is sent, each way, by latency, give or take jitter,
// until Heal.
func (p *Proxy) Delay(latency, jitter time.Duration) {
	p.t.Helper()
	for _, d := range []Direction{ToService, FromService} {
		p.added = append(p.added, p.add(d, "latency", 1,
			map[string]int{"latency": int(latency.Milliseconds()), "jitter": int(jitter.Milliseconds())}))
	}
}

// Limit lets through so many KB a second each way and connection, until Heal.
func (p *Proxy) Limit(rate int) {
	p.t.Helper()
	for _, d := range []Direction{ToService, FromService} {
		p.added = append(p.added, p.add(d, "bandwidth", 1, map[string]int{"rate": rate}))
	}
}

// HalfOpen loses what the present connections send in a direction from now on,
// forever. They stay open, and connections that come later are well: so it is
// where something in between has forgotten them.
func (p *Proxy) HalfOpen(d Direction) {
	p.t.Helper()
	name := p.add(d, lossType, 1, nil)
	p.proxy.Toxics.GetToxic(name).Toxic.(*loss).past.Store(true)
}

// Heal has the proxy listen and pass all on as it comes, but for connections that
// are half open.
func (p *Proxy) Heal() {
	p.t.Helper()
	for _, name := range p.added {
		require.NoError(p.t, p.proxy.Toxics.RemoveToxic(context.Background(), name))
	}
	p.added = nil
	if !p.proxy.Enabled {
		require.NoError(p.t, p.proxy.Start())
	}
}

// add adds a toxic and returns its name.
func (p *Proxy) add(d Direction, kind string, toxicity float64, attributes any) string {
	p.t.Helper()
	p.n++
	name := fmt.Sprintf("%s-%d", kind, p.n)
	text, err := json.Marshal(map[string]any{
		"name": name, "type": kind, "stream": d, "toxicity": toxicity, "attributes": attributes})
	require.NoError(p.t, err)
	_, err = p.proxy.Toxics.AddToxicJson(strings.NewReader(string(text)))
	require.NoError(p.t, err)
	return name
}

const lossType = "pricemill_loss"

func init() {
	toxics.Register(lossType, new(loss))
	// Some toxics have loggers of their own.
	zerolog.SetGlobalLevel(zerolog.Disabled)
}

// loss is a toxic that loses all that is sent on the connections that are there
// when it is added.
type loss struct{ past atomic.Bool }

var _ toxics.StatefulToxic = (*loss)(nil)

// NewState implements toxics.StatefulToxic: it is called once for each connection
// that is there, and later for each that begins.
func (l *loss) NewState() any { return !l.past.Load() }

// Pipe implements toxics.Toxic.
func (l *loss) Pipe(stub *toxics.ToxicStub) {
	loses := stub.State.(bool)
	for {
		select {
		case <-stub.Interrupt:
			return
		case chunk := <-stub.Input:
			if chunk == nil {
				stub.Close()
				return
			}
			if !loses {
				stub.Output <- chunk
			}
		}
	}
}
