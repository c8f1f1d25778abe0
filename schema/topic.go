package schema

// Topic is the role of a Kafka topic, which is also its name in the cluster
// unless that is configured otherwise.
type Topic string

// The topics of the chain, in the order of the data's way.
const (
	PollingJobs   Topic = "polling-jobs"
	FetchRequests Topic = "fetch-requests"
	RawQuotes     Topic = "raw-quotes"
	StoredQuotes  Topic = "stored-quotes"
	PriceEvents   Topic = "price-events"
	QuoteOutcomes Topic = "quote-outcomes"
)
