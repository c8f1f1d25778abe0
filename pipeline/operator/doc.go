// Package operator is what an operator does about the positions of stages: look at them,
// resolve halts, and set positions back or forward. Each action says first what it loses.
package operator
