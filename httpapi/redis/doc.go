// Package redis shares between processes what need not be in the database: how many requests
// a client has made, and the news that something was committed. All of it can be done
// without Redis, so no request fails or waits for long because of it.
package redis
