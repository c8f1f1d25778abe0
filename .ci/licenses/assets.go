package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-licenses/v2/licenses"
)

// asset is an npm package or a font of which a Go module embeds a file. The Go module
// passes on neither its licence nor its notices; they are in assets/NAME-VERSION, as they
// were published with the very file that sum is the SHA-256 of.
type asset struct {
	kind          string // npm or font
	name, version string
	module, file  string
	sum           string
}

// charts embeds four fonts.
const charts, fonts = "github.com/go-analyze/charts", "chartdraw/drawing/fonts/"

var embedded = []asset{
	{"npm", "swagger-ui-dist", "5.29.1", "github.com/swaggest/swgui", "v5/static/swagger-ui-bundle.js.gz",
		"7985a79e91c1d7b1ce81c0881ec886ec070cad9002e9bfe3a3ea55deccf64ad4"},
	{"npm", "redoc", "2.0.0-rc.59", "github.com/mvrilo/go-redoc", "assets/redoc.standalone.js",
		"cf38f3090cc2dad2f11a6d7b9cea68fe41eb00d2c969fb8d4d1df83110ce3ac7"},
	{"font", "roboto", "3.015", charts, fonts + "Roboto-Medium.ttf.gz", "ead50f8c26ee80c7d0a43fd3a659feecb33228d6637d845f84239647f27e2ee7"},
	{"font", "noto-sans-display", "2.003", charts, fonts + "NotoSans-Medium.ttf.gz", "ba4980d1549e4627b8ab7b23fbb94ab675377408d26654b178065f50262e8213"},
	{"font", "noto-sans-display", "2.003", charts, fonts + "NotoSans-Bold.ttf.gz", "dc9cd0d1d63d8ad2e7a395ae3d2b6e0b0193b6edb694f19cdb575d46fb81d2ad"},
	{"font", "noto-sans-symbols", "2.003", charts, fonts + "NotoSans-ChartSymbols.ttf.gz", "0a3a657de229cc4cc71a723808314d596f8364fc12e41ab11c4d25df16822449"},
}

// assets are the components of all assets. It fails where a module embeds another
// file than the one whose notices are here.
func assets(ctx context.Context, classifier licenses.Classifier) ([]*component, error) {
	var all []*component
	for _, a := range embedded {
		out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", a.module).Output()
		if err != nil {
			return nil, fmt.Errorf("finding the module %s: %w", a.module, err)
		}
		content, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), filepath.FromSlash(a.file)))
		if err != nil {
			return nil, fmt.Errorf("reading what %s embeds: %w", a.module, err)
		}
		folder := filepath.Join(".ci", "licenses", "assets", a.name+"-"+a.version)
		if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != a.sum {
			return nil, fmt.Errorf("%s embeds another %s than that of %s %s (%x): put the licence and notices of its version in place of %s, and its version and sum in %s",
				a.module, a.file, a.name, a.version, sum, folder, ".ci/licenses/assets.go")
		}
		if slices.ContainsFunc(all, func(c *component) bool { return c.name == a.kind+":"+a.name }) {
			continue // by another file of it
		}
		c := &component{name: a.kind + ":" + a.name, version: a.version}
		if err := c.addFolder(classifier, folder); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}
