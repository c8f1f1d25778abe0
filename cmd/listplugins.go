package cmd

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/topology"
	"github.com/pricemill/pricemill/schema"
)

// plugin is a module as it is listed.
type plugin struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	Doc  string `json:"doc"`
	// Optional says that it works only where PLUGINS names it; On that it works.
	Optional bool               `json:"optional"`
	On       bool               `json:"on"`
	Consumes []schema.EventType `json:"takes,omitempty"`
	Produces []schema.EventType `json:"gives,omitempty"`
	Settings []pipeline.Setting `json:"settings,omitempty"`
}

// listPlugins lists all modules of this binary.
func listPlugins(c config) []plugin {
	s := c.Plugins
	var all []plugin
	for _, m := range pipeline.Sources() {
		all = append(all, plugin{"source", m.Name, m.Doc, m.Optional, s.on(m.Name, m.Optional), nil, m.Produces, pipeline.DescribeSettings(m.Settings)})
	}
	for _, m := range pipeline.Handlers() {
		all = append(all, plugin{"handler", m.Name, m.Doc, m.Optional, s.on(m.Name, m.Optional), m.Consumes, m.Produces, pipeline.DescribeSettings(m.Settings)})
	}
	for _, m := range pipeline.Projections() {
		all = append(all, plugin{"projection", m.Name, m.Doc, m.Optional, s.on(m.Name, m.Optional), nil, nil, pipeline.DescribeSettings(m.Settings)})
	}
	for _, m := range c.Providers {
		all = append(all, plugin{"provider", string(m.Name), m.Doc, false, true, nil, nil, pipeline.DescribeSettings(m.Settings)})
	}
	return all
}

func newPlugins(a *app) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "plugins",
		Short: "List the plugins compiled into this binary, with their settings",
		Long: `List the sources, handlers, projections and providers compiled into this binary,
whether each is enabled, and their settings with defaults. PLUGINS enables
optional ones. Their settings belong in the configuration file, under "modules"
and the plugin's name.`,
		Example: "  pricemill plugins\n  PLUGINS=candles,ema pricemill plugins -o json",
		Args:    exactArgs(0),
		RunE: func(*cobra.Command, []string) error {
			c, err := a.load()
			if err != nil {
				return err
			}
			all := listPlugins(c)
			return a.print(output, all, func(w io.Writer) {
				fmt.Fprintln(w, "KIND\tNAME\tON\tWHAT IT DOES")
				for _, p := range all {
					on := "yes"
					if !p.On {
						on = "no"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.Kind, p.Name, on, p.Doc)
					for _, s := range p.Settings {
						fmt.Fprintf(w, "\t  %s\t%s\t%s; default %q\n", s.Name, strings.TrimPrefix(s.Type, "time."), s.Doc, s.Default)
					}
				}
			})
		},
	}
	outputFlag(c, &output)
	return c
}

func newTopology(a *app) *cobra.Command {
	var output string
	draw := map[string]func([]topology.Component) string{"mermaid": topology.Mermaid, "svg": topology.SVG}
	c := &cobra.Command{
		Use:   "topology",
		Short: "Print topics, stages and read models as a picture",
		Long: `Print the topics, and the sources, handlers and projections that produce to them
and consume from them, as a Mermaid flowchart (https://mermaid.js.org) or as an
SVG picture. No service is needed.`,
		Example: "  pricemill topology\n  PLUGINS=all pricemill topology -o svg >topology.svg",
		Args:    exactArgs(0),
		RunE: func(*cobra.Command, []string) error {
			c, err := a.load()
			if err != nil {
				return err
			}
			m, err := build(c, a.logger(c))
			if err != nil {
				return err
			}
			_, err = io.WriteString(a.stdout, draw[output](m.parts))
			return err
		},
	}
	choiceFlag(c, &output, "output", "o", []string{"mermaid", "svg"}, "")
	return c
}
