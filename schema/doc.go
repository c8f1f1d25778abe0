// Package schema is the contract of pricemill: the events and their envelope,
// topics, symbols, exact decimals and times, the JSON Schemas and the OpenAPI
// document, and the migrations of the tables that belong to no projection.
//
// It does no I/O and knows no broker and no database, so that every other
// package, and every plugin, may import it.
package schema
