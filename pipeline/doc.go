// Package pipeline is what the author of a plugin needs: what handlers, projections,
// providers and sources implement, what they are given, and how they are registered.
//
// # A first lesson
//
// Everything that happens is an event in a log. A log has topics, a topic has partitions,
// and events of one key are on one partition, in order. A price's partition follows from
// provider and symbol: prices of one symbol at two providers have no order between them.
//
// A plugin reads events, or makes them:
//
//   - a [Handler] makes events from events. Its examples are a complete one and, for
//     [Watermill], a plain function of that library;
//   - a [Projection] makes rows from events. Package projections has an example, and what
//     most of them need;
//   - a [Provider] gets prices from a service. Package handlers/fetch asks it, and has an
//     example;
//   - a source is a [Runner]: it makes events from something else. Runner has an example.
//
// A batch of records is applied in one transaction, which also moves the plugin's position
// in the log and writes the events that follow. So each record is applied exactly once,
// although a batch may be tried several times. For a plugin this means two things. The
// same log must give the same result, however it is cut into batches: no clock, no
// randomness, no state but tables and [Cache]. And there is no I/O in a transaction; what
// has to wait is a [Preparer].
//
// The error that a plugin returns decides what happens next: [Permanent] makes the record a
// dead letter, [RetryAfter] names the pause before the next attempt, and after any other
// error the pauses grow.
//
// A plugin registers itself in init, such as with [RegisterHandler]. "pricemill new plugin"
// writes one of each kind that works, and docs/plugins.md continues from there. Packages
// pipelinetest, projectiontest and providertest hold plugins to their duties.
//
// # Reading on
//
// Read it in this order: record.go (what a handler sees), handler.go, projection.go and
// provider.go (what a plugin implements), registry.go (how it is found), cache.go (what
// a handler may keep between batches), settings.go, errors.go (what an error decides).
//
// What runs plugins is in the packages below: log is what a log must supply, in a
// table of the database or on Kafka; chain the rule that drops repeats and notices gaps;
// engine the transaction around each batch, the relay from the outbox to Kafka, and the
// runtime under Watermill's router; store keeps positions, chains, the outbox and the
// table log in SQL.
package pipeline
