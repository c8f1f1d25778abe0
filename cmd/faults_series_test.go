package cmd_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stretchr/testify/assert"
)

// gauges are the metrics of a process that have no labels.
func gauges(ctx context.Context, url string) (found map[string]float64, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	found = map[string]float64{}
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		name, text, _ := strings.Cut(lines.Text(), " ")
		if value, err := strconv.ParseFloat(text, 64); err == nil {
			found[name] = value
		}
	}
	return found, lines.Err()
}

// kept is something that a process holds, and by how much it may be more at the end
// of a long time than at its beginning: by a part of it, and on top of that.
type kept struct {
	name        string
	metric      string // empty: connections to the database
	unit        float64
	part, extra float64
}

const mebibyte = 1 << 20

// keptInAll is what should stay level. Memory goes up and down with the garbage
// collector; pools of connections, and what hangs on each, with the load.
var keptInAll = []kept{
	{name: "resident memory, MiB", metric: "process_resident_memory_bytes", unit: mebibyte, part: 0.15, extra: 16},
	{name: "heap in use, MiB", metric: "go_memstats_heap_inuse_bytes", unit: mebibyte, part: 0.15, extra: 16},
	{name: "goroutines", metric: "go_goroutines", unit: 1, part: 0.1, extra: footprintSlack},
	{name: "open files", metric: "process_open_fds", unit: 1, part: 0.1, extra: footprintSlack},
	{name: "connections to the database", unit: 1, part: 0.1, extra: 5},
}

// series is what a process that lives held at moments of a long time.
type series struct {
	name   string
	url    string
	values [][]float64 // by moment, in the order of keptInAll
	missed int         // moments at which it did not answer
}

// sample looks at the process now.
func (c *fleet) sample(ctx context.Context, s *series) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	found, err := gauges(ctx, s.url)
	connections := 0
	if err == nil && onPostgres() {
		err = c.look.db.Get(ctx, &connections, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = $1`, s.name)
	}
	if err != nil {
		s.missed++ // it is stopped
		return
	}
	var values []float64
	for _, k := range keptInAll {
		value := float64(connections)
		if k.metric != "" {
			value = found[k.metric]
		}
		values = append(values, value/k.unit)
	}
	s.values = append(s.values, values)
}

// record samples processes until the function that it returns is called.
func (c *fleet) record(every time.Duration, of ...*worker) (end func() []*series) {
	ctx, cancel := context.WithCancel(c.t.Context())
	all := make([]*series, len(of))
	for i, w := range of {
		all[i] = &series{name: w.name, url: w.url()}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			for _, s := range all {
				c.sample(ctx, s)
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() []*series { cancel(); <-done; return all }
}

// checkSeries compares the level that each half reaches, after a fifth of the time
// for warming up: nine tenths of its moments lie below. A process that waits for its
// partitions has less of everything, even for a third of a short run, so the middle of
// a part says little. Between halves, what grows all the time has grown by half of it,
// and the bounds of keptInAll are for two thirds.
func (c *fleet) checkSeries(s *series) {
	c.t.Helper()
	warm := s.values[len(s.values)/5:]
	half := len(warm) / 2
	if !assert.Greater(c.t, half, 5, "moments at which %s answered", s.name) {
		return
	}
	text := ""
	for i, k := range keptInAll {
		column := func(rows [][]float64) []float64 {
			values := make([]float64, len(rows))
			for j, row := range rows {
				values[j] = row[i]
			}
			slices.Sort(values)
			return values
		}
		all, first, last := column(warm), column(warm[:half]), column(warm[len(warm)-half:])
		from, to := first[half*9/10], last[half*9/10]
		text += fmt.Sprintf("\n%s: %.0f at first, %.0f at last; least %.0f, most %.0f", k.name, from, to, all[0], all[len(all)-1])
		assert.LessOrEqual(c.t, to, from*(1+0.75*k.part)+0.75*k.extra, "%s: %s", s.name, k.name)
	}
	c.t.Logf("%s, at %d moments, and at %d more without an answer:%s",
		s.name, len(s.values), s.missed, text)
}
