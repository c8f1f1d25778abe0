// Package ratelimit counts the requests of clients, for one API process or for several
// together.
//
// Each client has a token bucket: it holds as many tokens as requests are allowed a minute,
// a request takes one, and they come back evenly. A [Limiter] keeps buckets in one of three
// places, and takes the first that answers:
//
//   - In Redis, if there is one. One script reads and changes a bucket, by the clock of
//     Redis, so processes share limits exactly.
//   - In the database. A process reserves tokens there in blocks, and spends them without a
//     query. What is reserved counts as spent, so all processes together never allow more
//     than the limit. A client may be refused a little too soon: while another process holds
//     tokens for it, which it gives back after a second without a request.
//   - In the process.
//
// The process knows what the last answer was, and takes it along to the next place: a
// client whose tokens are spent does not get new ones because Redis has died.
package ratelimit
