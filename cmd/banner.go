package cmd

import (
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
)

// greet tells a person who started the service where it is, what it rests on, and what to
// try next.
func (s *service) greet(w io.Writer) {
	address, c := schemeOf(s.config.TLSCertFile)+s.listener.Addr().String(), s.config
	fmt.Fprintf(w, "\npricemill %s on %s\n", releaseName(), address)
	fmt.Fprintf(w, "  data      %s\n", c.describeStack())
	if simulated := c.Providers.simulated(); slices.Contains(simulated, c.DefaultProvider) {
		fmt.Fprintf(w, "  prices    simulated, made up and not of any market; for real ones ask with provider=%s, or set FINNHUB_API_KEY\n",
			strings.Join(keylessProviders, " or provider="))
		if c.Demo {
			fmt.Fprintf(w, "  demo      trades of %s for an hour, unless another provider is in use; DEMO=off turns it off\n", demoList())
		}
	} else {
		fmt.Fprintf(w, "  prices    of %s, unless a request names another provider\n", c.DefaultProvider)
	}
	if c.Roles.API {
		fmt.Fprintf(w, "  look at   %s/ in a browser, and %s/docs for the API\n", address, address)
		fmt.Fprintf(w, "  try       curl -s '%s/api/v1/prices/latest?symbol=AAPL'\n", address)
	}
	fmt.Fprint(w, "  stop it   Ctrl-C\n\n")
}

// keylessProviders are those of real prices that need no key.
var keylessProviders = []string{"coinbase", "yahoo"}

// describeStack says where log and tables are, without secrets.
func (c config) describeStack() string {
	database := "SQLite in " + c.DataDir
	if c.DatabaseURL != "" {
		database = "PostgreSQL"
		if u, err := url.Parse(c.DatabaseURL); err == nil && u.Host != "" {
			database += " on " + u.Host + u.Path
		}
	}
	if len(c.Brokers) == 0 {
		return database + ", which holds the log too"
	}
	return database + ", and the log on Kafka at " + strings.Join(c.Brokers, ",")
}
