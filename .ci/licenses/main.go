// Command licenses writes cmd/notices.txt: the notices that the licences of all
// that is linked into pricemill ask for. It fails where a licence is not on the
// list of those allowed. With -check it writes nothing, and fails where the file
// is not what it would write.
//
// It is a module of its own, so that what it takes to recognise a licence is no
// dependency of the program.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/google/go-licenses/v2/licenses"
	"k8s.io/klog/v2"
)

// allowed are the licences that a dependency may have, by their SPDX names: those
// that ask for notices; the MPL, which asks in addition that its own files stay
// available as source; the FreeType License (FTL), which asks that the notices say
// what is based on FreeType; and the Open Font License (OFL) of fonts, which lets them be
// part of any program.
var allowed = []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "FTL", "ISC", "MIT", "MPL-2.0", "OFL-1.1"}

// platforms are those that pricemill is built for; each links modules of its own.
var platforms = []string{"linux/amd64", "linux/arm64", "darwin/arm64", "windows/amd64"}

const (
	ownModule = "github.com/pricemill/pricemill"
	program   = "./cmd/pricemill"
	output    = "cmd/notices.txt"
)

func main() {
	check := flag.Bool("check", false, "write nothing; fail where "+output+" is stale")
	flag.Parse()
	// It warns of each file in assembler.
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	if err := run(context.Background(), *check); err != nil {
		fmt.Fprintln(os.Stderr, "licenses:", err)
		os.Exit(1)
	}
}

// run works in the root of the checkout, where the go command finds the program's
// module.
func run(ctx context.Context, check bool) error {
	if err := os.Chdir("../.."); err != nil {
		return err
	}
	classifier, err := licenses.NewClassifier()
	if err != nil {
		return fmt.Errorf("loading the classifier: %w", err)
	}
	found, err := components(ctx, classifier)
	if err != nil {
		return err
	}
	if err := disallowed(found); err != nil {
		return err
	}
	want, err := render(found)
	if err != nil {
		return err
	}
	if !check {
		return os.WriteFile(output, want, 0o644)
	}
	got, err := os.ReadFile(output)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%s is stale: run make licenses, and commit it", output)
	}
	return nil
}

// components are the program itself, Go, all linked modules, and the assets that
// some of them embed.
func components(ctx context.Context, classifier licenses.Classifier) ([]*component, error) {
	goRoot, err := goEnv(ctx, "GOROOT")
	if err != nil {
		return nil, err
	}
	own := &component{name: ownModule, version: "-"}
	standard := &component{name: "Go", version: "standard-library"}
	if err := errors.Join(own.add(classifier, "LICENSE"), standard.addFolder(classifier, goRoot)); err != nil {
		return nil, err
	}
	modules, err := linked(ctx, classifier)
	if err != nil {
		return nil, err
	}
	embedded, err := assets(ctx, classifier)
	if err != nil {
		return nil, err
	}
	return slices.Concat([]*component{own, standard}, modules, embedded), nil
}

func disallowed(found []*component) error {
	var faults []error
	for _, c := range found {
		if len(c.licences) == 0 {
			faults = append(faults, fmt.Errorf("%s %s has no licence that is recognised", c.name, c.version))
		}
		for _, name := range c.licences {
			if !slices.Contains(allowed, name) {
				faults = append(faults, fmt.Errorf("%s %s: %s is not among the licences allowed: use another module", c.name, c.version, name))
			}
		}
	}
	return errors.Join(faults...)
}
