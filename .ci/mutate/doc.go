// Mutate changes the program in one small place after another, and runs the tests
// of the package each time: a mutant that no test notices shows a line that no
// test holds. The statements of logs, metrics and failpoints are left alone.
//
// All mutants of a package are compiled into one test binary, by an overlay; an
// environment variable says which of them is in force. A first run of each test
// shows which mutants it reaches, so that only those tests decide about them.
//
//	go run . -root ../.. pipeline/engine/plan.go pipeline/chain/chain.go
//
// What swallows an error that is only passed on (if err != nil { return err }) is
// tried with -errors alone: there is much of it, and to notice one takes a fault of
// exactly that call. -results FILE continues where a run was ended; delete the lines of
// survivors from it to try them again with new tests.
//
// A survivor that changes nothing that a test could see is listed in allowed.txt,
// with the reason. Any other makes the status 1.
//
// It is a module of its own, so that the program does not contain it. It exists
// since go-gremlins/gremlins 0.6, the maintained tool of the field, cannot delete
// statements, builds a binary for each mutant, and has no list of exceptions.
package main
