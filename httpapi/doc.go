// Package httpapi answers the REST requests of clients: prices, averages and
// polling jobs as the original Market Data Service did, their history and
// lifecycle, health, and the documents that describe it all.
//
// It knows no broker and no database. What it needs of them are the small
// interfaces of ports.go, which the composition root fills in.
//
// Read it in this order: config.go and ports.go (what it is given), api.go (the
// table of routes), then a file a resource: latest.go with fetch.go below it,
// requests.go, average.go, history.go, symbols.go, poll.go with pollbody.go below it, jobs.go,
// providers.go, health.go, docs.go, redoc.go. They share query.go (query
// parameters), list.go and cursor.go (pages), faults.go (the shape of a 422),
// errors.go (every other error, and which status it has) and respond.go (every
// body that is written). Around all of them stand middleware.go and ratelimit.go.
//
// # Not obvious
//
// A handler returns its error instead of writing it; only writeError of
// errors.go knows how an error looks to a client.
//
// The document served at /openapi.json is written by hand, in package schema.
// The tests validate each response they see against it, so a handler and the
// document cannot drift apart.
//
// Commands to a job are events, so what the read model says of it is a little
// old. The log's order decides; see commandJob and find.
//
// A fetch belongs to no client: it continues when the client that began it hangs
// up, since others may have joined it, and since the client's next attempt can.
// API.Close ends what is left.
//
// Every process listens, also one that serves no clients: what it answers then
// is NewOperations, the routes by which it is watched.
package httpapi
