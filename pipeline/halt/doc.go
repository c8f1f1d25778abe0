// Package halt says why a stage cannot continue on a partition by itself: what the log
// lacks, or has too much, at the position of the stage and before its next record.
package halt
