package cmd

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// usage is what this process used, load included.
type usage struct {
	CPUSeconds     float64 `json:"cpu_seconds"`
	CPUPer100k     float64 `json:"cpu_seconds_per_100000_events"`
	AllocatedMB    float64 `json:"allocated_mb"`
	AllocsPerEvent float64 `json:"allocations_per_event"`
	// PeakMB is the most memory it had, as the system counts it, looked at ten
	// times a second. A system that does not tell has 0.
	PeakMB float64 `json:"peak_rss_mb"`
}

// String implements fmt.Stringer.
func (u usage) String() string {
	return fmt.Sprintf("%.1f s of processor time, %.1f s per 100,000 events; %.0f MB allocated, %.0f allocations an event; %.0f MB of memory at the most",
		u.CPUSeconds, u.CPUPer100k, u.AllocatedMB, u.AllocsPerEvent, u.PeakMB)
}

// meter watches what this process uses.
type meter struct {
	registry *prometheus.Registry
	cpu      float64
	memory   runtime.MemStats

	stop context.CancelFunc
	done sync.WaitGroup
	peak float64 // read after done
}

// startMeter begins to count; end it.
func startMeter() *meter {
	m := &meter{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	m.cpu, m.peak = m.read()
	runtime.ReadMemStats(&m.memory)
	m.done.Go(func() {
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				_, resident := m.read()
				m.peak = max(m.peak, resident)
			}
		}
	})
	return m
}

// end stops counting, and returns what was used for so many events.
func (m *meter) end(events int) usage {
	m.stop()
	m.done.Wait()
	cpu, resident := m.read()
	var now runtime.MemStats
	runtime.ReadMemStats(&now)
	const megabyte = 1e6
	n := float64(max(1, events))
	return usage{CPUSeconds: cpu - m.cpu, CPUPer100k: (cpu - m.cpu) / n * 100_000,
		AllocatedMB:    float64(now.TotalAlloc-m.memory.TotalAlloc) / megabyte,
		AllocsPerEvent: float64(now.Mallocs-m.memory.Mallocs) / n, PeakMB: max(m.peak, resident) / megabyte}
}

// read returns the seconds of processor time used so far, and the bytes of memory
// now; zeros where the system does not tell.
func (m *meter) read() (cpu, resident float64) {
	families, err := m.registry.Gather()
	if err != nil {
		return 0, 0
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			switch family.GetName() {
			case "process_cpu_seconds_total":
				cpu = metric.GetCounter().GetValue()
			case "process_resident_memory_bytes":
				resident = metric.GetGauge().GetValue()
			}
		}
	}
	return cpu, resident
}
