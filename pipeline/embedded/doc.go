// Package embedded is a log inside the process, so that a first run needs
// nothing installed: a single-node broker that speaks Kafka's protocol on a
// loopback port and keeps its data in a directory.
//
// The broker is kfake, of the franz-go project. Its author calls it a fake
// broker for testing and, since it learned to persist, "a dumb localhost
// broker". It has one node and no replicas. With SyncWrites a batch that was
// acknowledged survives the death of the process; it does not survive the loss
// of the disk. Each of its requests passes through one goroutine, and after a
// crash it reads the whole log before it serves. Where each batch lies is kept in
// memory, some 80 bytes for each (BenchmarkMemoryOfABatch). Past LargeLog bytes, or
// where losing the machine must not lose the log, use Apache Kafka: nothing but the
// address changes.
//
// What this package adds are the guards without which kfake must not hold data
// that matters: a lock on the directory (a second process would open it
// happily), no trimming by age (its default is seven days), no topic that comes
// into being by being asked for, no address but loopback.
package embedded
