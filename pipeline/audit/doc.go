// Package audit proves what pricemill verify claims: it holds all that is kept in SQL,
// as of one moment, against the log. A handler takes part by being Audited.
package audit
