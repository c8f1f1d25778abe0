package pipeline

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pricemill/pricemill/schema"
)

// Env is what a module is built with.
type Env struct {
	// Settings is the module's section of the configuration, or nil.
	Settings map[string]any
	Log      *slog.Logger
	// Now is the clock: handlers and providers use no other.
	Now func() time.Time
	// Version is the program's: what it calls itself to services that it asks.
	Version string
	// Provider finds a provider by name or alias.
	Provider func(schema.Provider) (Provider, bool)
	// Metrics is where a module registers what it counts. Nil, as in tests,
	// means nowhere; promauto.With takes either.
	Metrics prometheus.Registerer
}

// HandlerModule makes a handler. Its stage has the module's name.
type HandlerModule struct {
	Name string
	Doc  string // one sentence
	// Takes and Gives are as in StageSpec.
	Takes, Gives []schema.EventType
	// Settings and Optional are as in ProjectionModule.
	Settings any
	Optional bool
	New      func(Env) (Handler, error)
}

// ProjectionModule makes a projection.
type ProjectionModule struct {
	Name string
	Doc  string
	// Settings is a struct with the defaults, whose fields have the tags
	// mapstructure and doc; nil for none. It is for people to read: New decodes
	// Env.Settings itself, into a copy of it.
	Settings any
	// Optional says that the module works only where it is switched on; any other
	// works unless it is switched off.
	Optional bool
	New      func(Env) (Projection, error)
}

// ProviderModule makes a provider.
type ProviderModule struct {
	Name    schema.Provider
	Aliases []schema.Provider
	Doc     string
	// Settings is as in ProjectionModule.
	Settings any
	New      func(Env) (Provider, error)
}

var modules = struct {
	sync.RWMutex
	handlers    map[string]HandlerModule
	projections map[string]ProjectionModule
	providers   map[schema.Provider]ProviderModule
}{
	handlers:    map[string]HandlerModule{},
	projections: map[string]ProjectionModule{},
	providers:   map[schema.Provider]ProviderModule{},
}

// RegisterHandler makes a handler known. It is meant for init, and panics where
// a name is taken.
func RegisterHandler(m HandlerModule) { register(modules.handlers, m.Name, m) }

// RegisterProjection is RegisterHandler for projections.
func RegisterProjection(m ProjectionModule) { register(modules.projections, m.Name, m) }

// RegisterProvider is RegisterHandler for providers.
func RegisterProvider(m ProviderModule) { register(modules.providers, m.Name, m) }

func register[K ~string, M any](into map[K]M, name K, m M) {
	modules.Lock()
	defer modules.Unlock()
	if _, taken := into[name]; taken || name == "" {
		panic(fmt.Sprintf("pipeline: %T %q: the name is taken or empty", m, name))
	}
	into[name] = m
}

// Handlers lists the registered handlers by name.
func Handlers() []HandlerModule { return listed(modules.handlers) }

// Projections lists the registered projections by name.
func Projections() []ProjectionModule { return listed(modules.projections) }

// Providers lists the registered providers by name.
func Providers() []ProviderModule { return listed(modules.providers) }

func listed[K ~string, M any](from map[K]M) []M {
	modules.RLock()
	defer modules.RUnlock()
	list := make([]M, 0, len(from))
	for _, name := range slices.Sorted(maps.Keys(from)) {
		list = append(list, from[name])
	}
	return list
}

// ErrTopology is wrapped by every fault of CheckTopology.
var ErrTopology = errors.New("the stages do not fit together")

// CheckTopology reports stages of one name, and inputs that no event type
// supplies.
func CheckTopology(stages []StageSpec) error {
	var errs []error
	names := map[string]bool{}
	for _, s := range stages {
		if names[s.Name] {
			errs = append(errs, fmt.Errorf("%w: two stages are named %q", ErrTopology, s.Name))
		}
		names[s.Name] = true
		if len(s.Takes) == 0 {
			errs = append(errs, fmt.Errorf("%w: stage %q takes no events", ErrTopology, s.Name))
		}
		for _, t := range append(slices.Clone(s.Takes), s.Gives...) {
			if _, known := schema.TopicOf(t); !known {
				errs = append(errs, fmt.Errorf("%w: stage %q speaks of event %q, which no package registers", ErrTopology, s.Name, t))
			}
		}
	}
	return errors.Join(errs...)
}
