// Package chain is the rule by which a stage follows the numbers of a partition's
// records: what comes next, what is a repeat, what is missing, and what another
// database wrote. It is pure: it reads no log and no database.
package chain
