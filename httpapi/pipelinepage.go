package httpapi

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pricemill/pricemill/httpapi/dashboard"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// Pipeline tells of the stages.
type Pipeline interface {
	// Flow is the topics and what is at their ends, in the order of the data's way. It
	// is the same in every call.
	Flow() []TopicFlow
	// Stages are the positions of all stages on all partitions.
	Stages(ctx context.Context) ([]StagePosition, error)
}

// TopicFlow is a topic with the components that produce to it and consume from it, by
// their names.
type TopicFlow struct {
	Topic                schema.Topic
	Producers, Consumers []string
}

// StagePosition is how far a stage has come on a partition.
type StagePosition struct {
	// Stage is the name of a component, or that of a projection and its generation,
	// such as candles.g1.
	Stage     string
	Topic     schema.Topic
	Partition int32
	// Position is the offset of the next record, End that of the next record to be
	// written; their difference is Lag.
	Position, End, Lag int64
	// Halted says why the stage stopped there; empty while it continues.
	Halted  string
	MovedAt schema.Time
}

// How much of each list a page shows.
const (
	pageLetters  = 20
	pageRebuilds = 10
)

// readPipelinePage reads the checks of /readyz, the positions of all stages, and what
// went wrong.
func (a *API) readPipelinePage(r *http.Request) (dashboard.Pipeline, error) {
	view := dashboard.Pipeline{Frame: a.frame("Pipeline", "pipeline"), Projections: a.ports.Rebuilds.Projections()}
	view.Notice = notice(r)
	checks := a.readiness(r.Context())
	view.Checked = len(checks)
	for _, c := range checks {
		if c.State != CheckOK {
			view.Checks = append(view.Checks, dashboard.Check{Name: c.Name, State: string(c.State), Reason: c.Reason})
		}
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	positions, err := a.ports.Pipeline.Stages(ctx)
	if err != nil {
		return view, fmt.Errorf("reading the positions of the stages: %w", err)
	}
	view.Stages = a.stagesOf(positions)
	view.Flow = flowOf(a.ports.Pipeline.Flow(), positions)
	letters, err := a.ports.DeadLetters.List(ctx, "", pageLetters+1)
	if err != nil {
		return view, fmt.Errorf("listing the dead letters: %w", err)
	}
	view.MoreLetters = len(letters) > pageLetters
	for _, l := range letters[:min(pageLetters, len(letters))] {
		view.Letters = append(view.Letters, dashboard.Letter{ID: l.ID, Stage: l.Stage, Place: fmt.Sprintf("%s/%d:%d", l.Topic, l.Partition, l.Offset),
			Reason: l.Reason, Age: a.ago(l.CreatedAt), Bytes: l.Bytes, Retrying: l.Retrying})
	}
	rebuilds, err := a.ports.Rebuilds.List(ctx, pageRebuilds)
	if err != nil {
		return view, fmt.Errorf("listing the rebuilds: %w", err)
	}
	for _, one := range rebuilds {
		view.Rebuilds = append(view.Rebuilds, a.rebuildOf(one))
	}
	return view, nil
}

// ago says in words how long a time is past; empty for none.
func (a *API) ago(t schema.Time) string {
	if t.IsZero() {
		return ""
	}
	if text := dashboard.Age(a.config.Now().Sub(t.Time)); text != "now" {
		return text + " ago"
	}
	return "now"
}

// stagesOf adds up the partitions of each stage.
func (a *API) stagesOf(positions []StagePosition) []dashboard.Stage {
	var stages []dashboard.Stage
	moved := map[int]schema.Time{}
	for _, p := range positions {
		at := slices.IndexFunc(stages, func(s dashboard.Stage) bool { return s.Name == p.Stage && s.Topic == p.Topic })
		if at < 0 {
			at = len(stages)
			stages = append(stages, dashboard.Stage{Name: p.Stage, Topic: p.Topic})
		}
		s := &stages[at]
		s.Partitions++
		s.Position, s.End, s.Lag = s.Position+p.Position, s.End+p.End, s.Lag+max(0, p.Lag)
		if p.MovedAt.After(moved[at]) {
			moved[at] = p.MovedAt
			s.Moved = a.ago(p.MovedAt)
		}
		if p.Halted != "" {
			s.Halts = append(s.Halts, fmt.Sprintf("%s/%d at %d: %s", p.Topic, p.Partition, p.Position, p.Halted))
		}
	}
	slices.SortStableFunc(stages, func(a, b dashboard.Stage) int { return cmp.Compare(a.Name, b.Name) })
	return stages
}

// flowOf puts the lag of each consumer to it. A projection is as late as the latest of
// its generations.
func flowOf(flow []TopicFlow, positions []StagePosition) []dashboard.Flow {
	all := make([]dashboard.Flow, len(flow))
	for i, f := range flow {
		all[i] = dashboard.Flow{Topic: f.Topic, Producers: f.Producers}
		for _, name := range f.Consumers {
			consumer := dashboard.Consumer{Name: name}
			lags := map[string]int64{}
			for _, p := range positions {
				if p.Topic == f.Topic && (p.Stage == name || strings.HasPrefix(p.Stage, name+".g")) {
					lags[p.Stage] += max(0, p.Lag)
					consumer.Lag = max(consumer.Lag, lags[p.Stage])
					consumer.Halted = consumer.Halted || p.Halted != ""
				}
			}
			all[i].Consumers = append(all[i].Consumers, consumer)
		}
	}
	return all
}

func (a *API) rebuildOf(r projections.Rebuild) dashboard.Rebuild {
	view := dashboard.Rebuild{ID: r.ID, Projection: r.Projection, State: string(r.State), Age: a.ago(r.CreatedAt),
		Done: r.Done, Total: r.Total, Rate: r.Rate, Error: r.Error,
		CanPromote: r.State == projections.RebuildReady, CanRollBack: r.State == projections.RebuildPromoted && r.Replaced > 0, CanStop: r.State.Open()}
	if r.SecondsLeft != nil && r.State == projections.RebuildRunning {
		view.Left = dashboard.Age(time.Duration(*r.SecondsLeft) * time.Second)
	}
	if p := r.Proof; p != nil {
		if view.Proof = "equal"; !p.Equal {
			view.Proof = fmt.Sprintf("%d differences", p.Found)
		}
		if len(p.Unproven) > 0 {
			view.Proof = "not proven: " + p.Unproven[0]
		}
	}
	return view
}
