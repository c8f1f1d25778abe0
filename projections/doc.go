// Package projections runs the read models: each folder below is one, with its
// fold, its tables and its queries; here is what they share, from the
// generations of a projection to the errors of a query.
//
// # A first lesson
//
// A projection folds events into tables. An indicator is a projection with a route of its
// own, and most indicators are a [Series]: a state, a function Step from one state and a
// price to the next, and a function Point from a state to what clients see. [NewSeries]
// makes table, fold and query of them, in the order of event time even where prices come
// late. Its example is a complete indicator.
//
// A fold is pure: the same log gives the same rows, today and in a rebuild years from now.
// When its code would give other rows, its Version is raised. Then the next start folds the
// whole log again into another generation, next to the one that serves, and swaps the two
// when the new one has caught up.
//
// Package projectiontest checks all this of a projection, in one line. docs/plugins has a
// tutorial.
package projections
