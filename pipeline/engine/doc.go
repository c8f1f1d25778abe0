// Package engine runs handlers and projections over the log with exactly-once effects.
//
// Read it in this order: stage.go (a batch on its way), assign.go (where a session
// starts), plan.go (what a transaction will do), attempt.go (the transaction),
// bisect.go, watchdog.go and retry.go (what may go wrong in it); runtime.go (all of it
// under Watermill's router). What stages write goes through package outbox.
package engine
