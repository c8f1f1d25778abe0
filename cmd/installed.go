package cmd

import (
	"context"
	"slices"
	"strings"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
)

// installation is what an installation runs, as its database knows: whatever the
// settings of this process say.
type installation struct {
	// projections have tables, stages have positions.
	projections, stages []string
}

func installed(ctx context.Context, q store.Querier) (installation, error) {
	var i installation
	var err error
	if i.projections, err = projections.Installed(ctx, q); err != nil {
		return i, err
	}
	i.stages, err = store.Stages(ctx, q)
	i.stages = slices.DeleteFunc(i.stages, i.folds)
	return i, err
}

// folds reports whether a stage feeds one of the projections.
func (i installation) folds(stage string) bool {
	return slices.ContainsFunc(i.projections, func(p string) bool { return strings.HasPrefix(stage, p+".g") })
}

// switchedOn is the configuration with the modules switched on that are installed.
func (c config) switchedOn(i installation) config {
	c.Plugins = c.Plugins.with(append(slices.Clone(i.projections), i.stages...))
	return c
}

// lacks are the projections and the stages that this binary does not have, at all.
func (i installation) lacks() (folds, stages []string) {
	folds, stages = slices.Clone(i.projections), slices.Clone(i.stages)
	for _, module := range pipeline.Projections() {
		folds = slices.DeleteFunc(folds, func(name string) bool { return name == module.Name })
	}
	for _, module := range pipeline.Handlers() {
		stages = slices.DeleteFunc(stages, func(name string) bool { return name == module.Name })
	}
	return folds, stages
}
