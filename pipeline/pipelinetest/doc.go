// Package pipelinetest runs handlers and projections in tests: under a real
// stage, on a real database, but without a broker. The test itself is the log:
// it appends events, and decides in what order and in which batches the stage
// gets them.
//
// A Rig is the database and the log. Rig.Start runs a stage, Stage.Deliver hands
// it a batch and waits until it was applied, and Rig.Events returns what the
// stage published. CheckFold holds a projection to the duty of Apply: the same
// rows however the log is cut into batches. Fail has the pipeline fail at one of
// the moments that package failpoint names. Authors of plugins test theirs the
// same way.
package pipelinetest
