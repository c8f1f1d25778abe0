package httpapi

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/mux"
	"golang.org/x/sync/singleflight"

	"github.com/pricemill/pricemill/httpapi/chart"
	"github.com/pricemill/pricemill/projections/adjustments"
	"github.com/pricemill/pricemill/projections/jobs"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/projections/requests"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/parquet"
)

// queryTimeout bounds each call of a port that only reads or writes a few rows,
// so that a database that hangs becomes a 503 and not a client that hangs.
const queryTimeout = 5 * time.Second

// API is the handler of all requests. It is safe for concurrent use.
type API struct {
	config    Config
	ports     Ports
	fetcher   *fetcher
	jobs      *activeLimit
	streams   *activeLimit
	backfills *activeLimit
	push      *pushStreams
	origins   origins
	router    *mux.Router
	handler   http.Handler
	routes    []route
	looks     singleflight.Group // of those who watch the process
}

var _ http.Handler = (*API)(nil)

// route is a line of the table of routes.
type route struct {
	method string
	path   string
	// serve answers the request, or returns the error that does.
	serve func(w http.ResponseWriter, r *http.Request) error
}

// New checks the configuration and the ports and returns the API. Its error
// wraps ErrConfig and names all faults. The caller closes the API after the
// server that it is given to has shut down.
func New(config Config, ports Ports) (*API, error) {
	if err := errors.Join(config.Validate(), ports.Validate()); err != nil {
		return nil, err
	}
	docs, err := newDocs()
	if err != nil {
		return nil, err
	}
	described, err := describeAPI(ports.Indicators)
	if err != nil {
		return nil, err
	}
	queries, err := documentedQueries(described)
	if err != nil {
		return nil, err
	}
	docs.api = newDocument(jsonContent, described)
	redoc := newRedoc()
	a := newAPI(config, ports)
	a.fetcher = newFetcher(a.config, ports)
	a.push = newPushStreams(a.config.Push)
	a.jobs = newActiveLimit("polling jobs", "MAX_ACTIVE_JOBS", a.config.MaxActiveJobs, ports.Jobs.Open)
	a.streams = newActiveLimit("streams", "MAX_ACTIVE_STREAMS", a.config.MaxActiveStreams, ports.Streams.Open)
	a.backfills = newActiveLimit("backfills", "MAX_ACTIVE_BACKFILLS", a.config.MaxActiveBackfills, ports.Backfills.Open)
	ofJobs := followed{schema.PollingJobs, []string{jobs.Name}, ports.Jobs.WaitCaughtUp}
	ofStreams := followed{schema.PollingJobs, []string{streamStage}, ports.Streams.WaitCaughtUp}
	ofAdjustments := followed{schema.PollingJobs, []string{adjustments.Name}, ports.Adjustments.WaitCaughtUp}
	ofBackfills := followed{schema.PollingJobs, []string{backfillStage}, ports.Backfills.WaitCaughtUp}
	routes := append(a.operations(),
		route{http.MethodGet, "/", a.getRoot},
		route{http.MethodGet, symbolPath, page(a, a.readSymbolPage)},
		route{http.MethodGet, "/dashboard/pipeline", page(a, a.readPipelinePage)},
		route{http.MethodGet, "/dashboard/jobs", page(a, a.readJobsPage)},
		route{http.MethodPost, actionsPath, a.postAction},
		route{http.MethodGet, historyCSVPath, a.historyFile(csvMedia, "prices.csv")},
		route{http.MethodGet, historyParquetPath, a.historyFile(parquet.Media, "prices.parquet")},
		route{http.MethodGet, "/dashboard/assets/{file}", a.getDashboardAsset},
		route{http.MethodGet, "/health", a.getHealth},
		route{http.MethodGet, "/docs", docs.getPage},
		route{http.MethodGet, "/docs/{asset}", docs.getAsset},
		route{http.MethodGet, "/redoc", redoc.getPage},
		route{http.MethodGet, redocScript, redoc.getScript},
		route{http.MethodGet, "/openapi.json", docs.getOpenAPI},
		route{http.MethodGet, "/asyncapi.json", a.getAsyncAPI},
		route{http.MethodGet, "/api/v1/symbols", a.withAge(a.getSymbols, latestprices.Name)},
		route{http.MethodGet, "/api/v1/providers", a.getProviders},
		route{http.MethodGet, "/api/v1/indicators", a.getIndicators},
		route{http.MethodGet, "/api/v1/prices", a.ofPrices(a.getPrices, latestprices.Name)},
		route{http.MethodGet, latestPath, a.withAfter(a.foldedBy(latestprices.Name), a.getLatest)},
		route{http.MethodGet, historyPath, a.ofPrices(a.getHistory, processedprices.Name)},
		route{http.MethodPost, historyBatchPath, a.withAge(a.postHistoryBatch, processedprices.Name)},
		route{http.MethodGet, "/api/v1/prices/chart.svg", a.withAge(a.getChart(chart.SVG), processedprices.Name)},
		route{http.MethodGet, "/api/v1/prices/chart.png", a.withAge(a.getChart(chart.PNG), processedprices.Name)},
		route{http.MethodGet, "/api/v1/prices/chart.json", a.withAge(a.getChartNumbers, processedprices.Name)},
		route{http.MethodGet, "/api/v1/prices/moving-average", a.ofPrices(a.getAverage, movingaverages.Name, processedprices.Name)},
		route{http.MethodGet, "/api/v1/prices/moving-averages", a.ofPrices(a.getAverages, movingaverages.Name, processedprices.Name)},
		route{http.MethodGet, "/api/v1/prices/moving-average/history", a.ofPrices(a.getAverageHistory, processedprices.Name)},
		route{http.MethodGet, streamPath, a.getPriceStream},
		route{http.MethodPost, "/api/v1/prices/poll", a.postPoll},
		route{http.MethodGet, "/api/v1/prices/poll", a.withAfter(ofJobs, a.withAge(a.getJobs, jobs.Name))},
		route{http.MethodGet, "/api/v1/prices/poll/{job_id}", a.withAfter(ofJobs, a.withAge(a.getJob, jobs.Name))},
		route{http.MethodDelete, "/api/v1/prices/poll/{job_id}", a.stopJob},
		route{http.MethodPost, "/api/v1/prices/poll/{job_id}/pause", a.pauseJob},
		route{http.MethodPost, "/api/v1/prices/poll/{job_id}/resume", a.resumeJob},
		route{http.MethodGet, requestPath, a.withAge(a.getRequest, requests.Name)},
		route{http.MethodPost, correctionsPath, a.postCorrection},
		route{http.MethodPost, "/api/v1/retractions", a.postRetraction},
		route{http.MethodGet, correctionsPath, a.withAge(a.getCorrections, processedprices.Name)},
		route{http.MethodGet, correctionsPath + "/{correction_id}", a.withAge(a.getCorrection, processedprices.Name)},
		route{http.MethodPost, adjustmentsPath, a.postAdjustment},
		route{http.MethodGet, adjustmentsPath, a.withAfter(ofAdjustments, a.withAge(a.getAdjustments, adjustments.Name))},
		route{http.MethodGet, adjustmentsPath + "/{adjustment_id}", a.withAfter(ofAdjustments, a.withAge(a.getAdjustment, adjustments.Name))},
		route{http.MethodPost, adjustmentsPath + "/{adjustment_id}/retract", a.postAdjustmentRetraction},
		route{http.MethodPost, "/api/v1/streams", a.postStream},
		route{http.MethodGet, "/api/v1/streams", a.withAfter(ofStreams, a.getStreams)},
		route{http.MethodGet, "/api/v1/streams/{stream_id}", a.withAfter(ofStreams, a.getStream)},
		route{http.MethodPatch, "/api/v1/streams/{stream_id}", a.patchStream},
		route{http.MethodDelete, "/api/v1/streams/{stream_id}", a.deleteStream},
		route{http.MethodPost, "/api/v1/backfills", a.postBackfill},
		route{http.MethodGet, "/api/v1/backfills", a.withAfter(ofBackfills, a.getBackfills)},
		route{http.MethodGet, "/api/v1/backfills/{backfill_id}", a.withAfter(ofBackfills, a.getBackfill)},
		route{http.MethodDelete, "/api/v1/backfills/{backfill_id}", a.deleteBackfill},
		route{http.MethodPost, "/api/v1/rebuilds", a.postRebuild},
		route{http.MethodGet, "/api/v1/rebuilds", a.getRebuilds},
		route{http.MethodGet, "/api/v1/rebuilds/{id}", a.getRebuild},
		route{http.MethodDelete, "/api/v1/rebuilds/{id}", a.deleteRebuild},
		route{http.MethodPost, "/api/v1/rebuilds/{id}/promote", a.promoteRebuild},
		route{http.MethodPost, "/api/v1/rebuilds/{id}/rollback", a.rollBackRebuild},
		route{http.MethodGet, "/api/v1/dead-letters", a.getDeadLetters},
		route{http.MethodDelete, "/api/v1/dead-letters", a.discardDeadLetters},
		route{http.MethodGet, "/api/v1/dead-letters/{letter_id}", a.getDeadLetter},
		route{http.MethodDelete, "/api/v1/dead-letters/{letter_id}", a.discardDeadLetter},
		route{http.MethodPost, "/api/v1/dead-letters/{letter_id}/retry", a.retryDeadLetter},
		route{http.MethodPost, "/api/v1/dead-letter-retries", a.retryDeadLetters},
		route{http.MethodGet, "/api/v1/dead-letter-retries/{retry_id}", a.getLetterRetry},
	)
	routes = append(routes, a.udfRoutes()...)
	for name, indicator := range ports.Indicators {
		routes = append(routes, route{http.MethodGet, indicatorPath + name, a.withAfter(a.foldedBy(name), a.getIndicator(name, indicator))})
	}
	for i, rt := range routes {
		if strings.HasPrefix(rt.path, apiPrefix) {
			routes[i] = rt.strict(queries[rt.method+" "+rt.path])
		}
	}
	a.mount(append(routes, route{http.MethodGet, indicatorPath + "{indicator}", a.noIndicator}))
	return a, nil
}

// NewOperations returns the routes by which a process is watched, and no others:
// /livez, /readyz, /version, /metrics. It is for processes that serve no
// clients. Of the ports it needs Readiness and Metrics; of the configuration,
// what is about providers and prices does not count. It needs no Close.
func NewOperations(config Config, ports Ports) (*API, error) {
	if err := ports.validateOperations(); err != nil {
		return nil, err
	}
	a := newAPI(config, ports)
	a.mount(a.operations())
	return a, nil
}

func newAPI(config Config, ports Ports) *API {
	return &API{config: config.withDefaults(), ports: ports, origins: newOrigins(config.AllowOrigins), router: mux.NewRouter()}
}

// operations are the routes that every process has.
func (a *API) operations() []route {
	return []route{
		{http.MethodGet, "/livez", a.getLivez},
		{http.MethodGet, "/readyz", a.getReadyz},
		{http.MethodGet, "/version", a.getVersion},
		{http.MethodGet, "/metrics", a.getMetrics},
	}
}

// mount puts the routes after what they all share.
func (a *API) mount(routes []route) {
	a.routes = routes
	plain := map[string]http.Handler{} // GETs of one path, which need no search
	// A path is taken as it is sent: mux would answer //health with a redirect
	// whose Location begins with two slashes, which is another host's address.
	a.router.SkipClean(true)
	for _, rt := range a.routes {
		methods := []string{rt.method}
		if rt.method == http.MethodGet {
			methods = append(methods, http.MethodHead)
		}
		handler := reached(rt.path, a.withErrors(a.allowed(scopeOf(rt.method, rt.path), rt.serve)))
		a.router.Path(rt.path).Methods(methods...).Handler(handler)
		if rt.method == http.MethodGet && !strings.Contains(rt.path, "{") {
			plain[rt.path] = handler
		}
	}
	a.router.NotFoundHandler = a.withErrors(a.notFound)
	a.router.MethodNotAllowedHandler = a.withErrors(a.methodNotAllowed)
	routed := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if handler, known := plain[r.URL.Path]; known && r.Method == http.MethodGet {
			handler.ServeHTTP(w, r)
			return
		}
		a.router.ServeHTTP(w, r)
	})
	a.handler = a.recovered(a.guarded(a.identified(newRateLimiter(a.config, a.ports.Limits).wrap(routed, a.writeError))))
}

// withErrors turns a returned error into a response.
func (a *API) withErrors(serve func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := serve(w, r); err != nil {
			a.writeError(w, r, err)
		}
	})
}

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.handler.ServeHTTP(w, r) }

// Drain ends the streams of clients, which come back: a server that shuts down waits for
// them.
func (a *API) Drain() {
	if a.ports.Live != nil { // else it serves no clients
		a.ports.Live.Drain()
	}
}

// Close ends the streams of clients and the fetches that no client waits for any more,
// and returns when they are gone. A request that comes later and needs one gets a 503.
func (a *API) Close() {
	a.Drain()
	a.fetcher.close()
	a.push.work.Wait()
}

// notFound answers requests for which there is no route. Like the original, it
// sends a client with one slash too many to the right address.
func (a *API) notFound(w http.ResponseWriter, r *http.Request) error {
	if path := strings.TrimRight(r.URL.Path, "/"); path != r.URL.Path && a.isRoute(path) {
		target := *r.URL
		target.Scheme, target.Host, target.Path, target.RawPath = "", "", path, ""
		http.Redirect(w, r, target.String(), http.StatusTemporaryRedirect)
		return nil
	}
	return newError(codeNotFound, "Not Found")
}

// isRoute compares literally: a redirect must not be built from a path that
// merely matches a pattern.
func (a *API) isRoute(path string) bool {
	return slices.ContainsFunc(a.routes, func(rt route) bool { return rt.path == path })
}

func (a *API) methodNotAllowed(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Allow", strings.Join(a.methods(r), ", "))
	return newError(codeMethodNotAllowed, "Method Not Allowed")
}

// methods are those by which the path of a request can be asked for; none where
// there is no such path.
func (a *API) methods(r *http.Request) []string {
	var allowed []string
	for _, method := range methodLabels {
		probe := &http.Request{Method: method, URL: r.URL, Host: r.Host, Header: r.Header}
		var match mux.RouteMatch
		if a.router.Match(probe, &match) && match.MatchErr == nil {
			allowed = append(allowed, method)
		}
	}
	return allowed
}

// withQueryTimeout gives a handler's calls of a port their time limit.
func withQueryTimeout(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), queryTimeout)
}
