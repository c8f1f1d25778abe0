package cmd

import (
	"maps"
	"slices"
	"strings"

	"github.com/pricemill/pricemill/pipeline/topology"
	"github.com/pricemill/pricemill/projections/adjustments"
	"github.com/pricemill/pricemill/projections/jobs"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/projections/requests"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/names"
)

// switches say which modules are switched on and off; of the others the optional
// ones are off.
type switches struct {
	named map[string]bool
	all   bool
}

func (s switches) on(name string, optional bool) bool {
	if on, named := s.named[name]; named {
		return on
	}
	return !optional || s.all
}

// with are the switches with these modules on.
func (s switches) with(names []string) switches {
	named := maps.Clone(s.named)
	if named == nil {
		named = map[string]bool{}
	}
	for _, name := range names {
		named[name] = true
	}
	return switches{named, s.all}
}

// readPlugins reads the setting.
func (c config) readPlugins(text string, wrong *faults) switches {
	s := switches{named: map[string]bool{}}
	known := c.moduleNames()
	for word := range strings.SplitSeq(text, ",") {
		word = strings.TrimSpace(word)
		name, off := strings.CutPrefix(word, "-")
		switch {
		case word == "":
		case word == "all":
			s.all = true
		case !slices.Contains(known, name):
			wrong.add("plugins", "there is no module %q; %s", name, names.Hint(name, known))
		case off && (slices.Contains(served, name) || slices.Contains(c.Providers.names(), schema.Provider(name))):
			wrong.add("plugins", "%q cannot be switched off: the API has routes that read it", name)
		default:
			s.named[name] = !off
		}
	}
	return s
}

// served are the read models that the API needs.
var served = []string{adjustments.Name, jobs.Name, latestprices.Name, movingaverages.Name, processedprices.Name, requests.Name}

// builtinSources are the sources of events that no module produces.
var builtinSources = []topology.Component{
	{Kind: topology.SourceComponent, Name: "api", Doc: "Commands and questions of clients.", Produces: []schema.EventType{
		schema.PollingJobCreated{}.EventType(), schema.PollingJobPaused{}.EventType(), schema.PollingJobResumed{}.EventType(),
		schema.PollingJobStopped{}.EventType(), schema.FetchRequested{}.EventType(), schema.StreamStarted{}.EventType(), schema.StreamChanged{}.EventType(), schema.StreamStopped{}.EventType(),
		schema.BackfillStarted{}.EventType(), schema.BackfillStopped{}.EventType(),
		schema.PriceCorrected{}.EventType(), schema.PriceRetracted{}.EventType(),
		schema.AdjustmentRecorded{}.EventType(), schema.AdjustmentRetracted{}.EventType()}},
	{Kind: topology.SourceComponent, Name: "ingest", Doc: "Quotes of files, corrections and adjustments.", Produces: []schema.EventType{schema.QuoteFetched{}.EventType(), schema.PriceCorrected{}.EventType(),
		schema.AdjustmentRecorded{}.EventType()}},
}
