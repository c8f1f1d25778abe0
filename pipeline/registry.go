package pipeline

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pricemill/pricemill/pipeline/tracing"
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
	// Tracer records spans; nil, as in tests, records none. Stages and what they publish
	// have spans without it: it is for work in between, such as asking a service.
	Tracer *tracing.Tracer
}

// HandlerModule makes a handler. Its stage has the module's name.
type HandlerModule struct {
	Name string
	Doc  string // one sentence
	// Consumes and Produces are as in StageSpec; Produces also lists what a Runner emits.
	Consumes, Produces []schema.EventType
	// Settings and Optional are as in ProjectionModule.
	Settings any
	Optional bool
	// Delivers says that the handler hands what it reads to another system. Nothing here
	// waits until that has taken it: a fault is a warning of /readyz, and "pricemill
	// ingest" ends before.
	Delivers bool
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
	// Simulated says that its prices are made up: answers that rest on them say so.
	Simulated bool
	// CaseSensitive says that symbols that differ in case are different instruments.
	// Those of any other provider are upper-cased where they are read.
	CaseSensitive bool
	// Settings is as in ProjectionModule.
	Settings any
	New      func(Env) (Provider, error)
}

// SourceModule makes a source: work of its own whose events follow from none.
type SourceModule struct {
	Name string
	Doc  string
	// Produces lists the types of the events that it may emit.
	Produces []schema.EventType
	// Settings and Optional are as in ProjectionModule.
	Settings any
	Optional bool
	New      func(Env) (Runner, error)
}

var modules = struct {
	sync.RWMutex
	handlers    map[string]HandlerModule
	sources     map[string]SourceModule
	projections map[string]ProjectionModule
	providers   map[schema.Provider]ProviderModule
	// names are all of them, with the places where they were registered.
	names map[string][]string
}{
	handlers:    map[string]HandlerModule{},
	sources:     map[string]SourceModule{},
	projections: map[string]ProjectionModule{},
	providers:   map[schema.Provider]ProviderModule{},
	names:       map[string][]string{},
}

// RegisterHandler makes a handler known. It is meant for init. A name that is
// taken, whatever by, is a fault that CheckModules reports when the program starts.
func RegisterHandler(m HandlerModule) { register(modules.handlers, m.Name, m, "handler") }

// RegisterSource is RegisterHandler for sources.
func RegisterSource(m SourceModule) { register(modules.sources, m.Name, m, "source") }

// RegisterProjection is RegisterHandler for projections.
func RegisterProjection(m ProjectionModule) { register(modules.projections, m.Name, m, "projection") }

// RegisterProvider is RegisterHandler for providers.
func RegisterProvider(m ProviderModule) { register(modules.providers, m.Name, m, "provider") }

func register[K ~string, M any](into map[K]M, name K, m M, kind string) {
	where := kind
	if _, file, line, ok := runtime.Caller(2); ok {
		where += fmt.Sprintf(" registered at %s:%d", path.Join(path.Base(path.Dir(file)), path.Base(file)), line)
	}
	modules.Lock()
	defer modules.Unlock()
	modules.names[string(name)] = append(modules.names[string(name)], where)
	if _, taken := into[name]; !taken {
		into[name] = m
	}
}

// ErrModules is wrapped by every fault of CheckModules.
var ErrModules = errors.New("the modules of this binary do not fit together")

// moduleName is what a name may be: it is a section of the configuration, part of
// a consumer group, and of a URL.
var moduleName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)

// CheckModules reports modules of one name, and names that cannot be.
func CheckModules() error {
	modules.RLock()
	defer modules.RUnlock()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(modules.names)) {
		if where := modules.names[name]; len(where) > 1 {
			errs = append(errs, fmt.Errorf("%w: %d of them are named %q: %s; a name is a section of the settings and must be one module's alone, so rename all but one",
				ErrModules, len(where), name, strings.Join(where, ", ")))
		}
		if _, provider := modules.providers[schema.Provider(name)]; provider && schema.Provider(name).IsView() {
			errs = append(errs, fmt.Errorf("%w: provider %q: the name stands for prices of several providers", ErrModules, name))
		}
		if !moduleName.MatchString(name) {
			errs = append(errs, fmt.Errorf("%w: %q (%s) is no name: want lower case letters, digits and hyphens, as in moving-averages",
				ErrModules, name, strings.Join(modules.names[name], ", ")))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(modules.providers)) {
		for _, alias := range modules.providers[name].Aliases {
			if alias.IsView() {
				errs = append(errs, fmt.Errorf("%w: provider %q: its alias %q stands for prices of several providers", ErrModules, name, alias))
			}
		}
	}
	return errors.Join(errs...)
}

// Sources lists the registered sources by name.
func Sources() []SourceModule { return listed(modules.sources) }

// Handlers lists the registered handlers by name.
func Handlers() []HandlerModule { return listed(modules.handlers) }

// Projections lists the registered projections by name.
func Projections() []ProjectionModule { return listed(modules.projections) }

// Providers lists the registered providers by name.
func Providers() []ProviderModule { return listed(modules.providers) }

// CaseSensitive reports whether symbols of a provider that differ in case are
// different instruments. Those of one that is not registered are not.
func CaseSensitive(name schema.Provider) bool {
	modules.RLock()
	defer modules.RUnlock()
	return modules.providers[name].CaseSensitive
}

func listed[K ~string, M any](from map[K]M) []M {
	modules.RLock()
	defer modules.RUnlock()
	list := make([]M, 0, len(from))
	for _, name := range slices.Sorted(maps.Keys(from)) {
		list = append(list, from[name])
	}
	return list
}
