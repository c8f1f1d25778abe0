package simulated

import (
	"errors"

	"github.com/pricemill/pricemill/pipeline"
)

// Settings of the module; each is the field of Config of that name.
type Settings struct {
	// Seed chooses the market. Default 1.
	Seed uint64 `mapstructure:"seed" doc:"which of 2^64 markets is made up"`
	// Faults is as ParseFaults reads it. Default none.
	Faults string `mapstructure:"faults" doc:"misbehaviour, such as NOPE=unknown,SLOW=late:200ms"`
}

var defaults = Settings{Seed: 1}

func init() {
	pipeline.RegisterProvider(pipeline.ProviderModule{
		Name:      Name,
		Simulated: true,
		Doc:       "Made-up prices, labelled as such: for demonstrations and tests.",
		Settings:  defaults,
		New: func(env pipeline.Env) (pipeline.Provider, error) {
			settings := defaults
			if err := env.Decode(&settings); err != nil {
				return nil, err
			}
			faults, faultsErr := ParseFaults(settings.Faults)
			provider, err := New(Config{Seed: settings.Seed, Faults: faults, Clock: env.Now})
			if err := errors.Join(faultsErr, err); err != nil {
				return nil, err
			}
			return provider, nil
		},
	})
}
