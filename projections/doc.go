// Package projections runs the read models: each folder below is one, with its
// fold, its tables and its queries; here is what they share, from the
// generations of a projection to the errors of a query.
package projections
