package pipelinetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
)

// Panic is a TB for examples and programs, which have no test: a failure is a panic.
type Panic struct{}

// Errorf panics.
func (Panic) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// FailNow panics.
func (Panic) FailNow() { panic("failed") }

// Helper does nothing.
func (Panic) Helper() {}

// Temporary is New for examples and programs. Remove closes the database and removes it.
func Temporary() (rig *Rig, remove func(), err error) {
	dir, err := os.MkdirTemp("", "pipelinetest")
	if err != nil {
		return nil, nil, fmt.Errorf("making a folder for the database: %w", err)
	}
	engine, err := sqlite.Open(filepath.Join(dir, "db"))
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	db, err := store.Open(context.Background(), Clocked(engine))
	if err != nil {
		return nil, nil, errors.Join(err, engine.Close(), os.RemoveAll(dir))
	}
	return On(Panic{}, db), func() {
		if err := errors.Join(db.Close(), os.RemoveAll(dir)); err != nil {
			panic(err)
		}
	}, nil
}
