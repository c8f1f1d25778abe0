// Package kafka is the log on Apache Kafka, or on any cluster that speaks its
// protocol. It implements log.Broker over sarama, which nothing else imports.
//
// Read it in this order: config.go, broker.go (the connections), admin.go,
// retention.go and offsets.go (what the cluster has), partitioner.go, sender.go
// (one batch per partition), publisher.go (Watermill's Publisher over it),
// subscriber.go, subscription.go, session.go and lane.go (from a consumer group
// to batches), reader.go (without a group), errors.go (what is tried again).
//
// Not obvious:
//
//   - sarama holds a broker's lock for the whole of a request and its answer.
//     Clients are therefore not shared between things that wait: a fetch that
//     waits for records would hold up a produce request by as long.
//   - sarama's producers are not used. They cut a partition's records into
//     several batches, and after one of them has failed permanently they deliver
//     those after it.
//   - Records of aborted transactions are delivered like any others (isolation
//     level read_uncommitted): pricemill's own chain numbers say what counts.
package kafka
