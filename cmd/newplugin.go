package cmd

import (
	"cmp"
	"embed"
	"errors"
	"fmt"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/template"

	"github.com/spf13/cobra"
)

//go:embed template/*.tmpl
var templates embed.FS

// pricemillModule is the path of this module, in a program of its own and in one with
// plugins.
const pricemillModule = "github.com/pricemill/pricemill"

// newPluginName is kebab case, as a projection's name is.
var newPluginName = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)

func newNew(a *app) *cobra.Command {
	parent := &cobra.Command{
		Use:   "new",
		Short: "Scaffold a plugin",
	}
	var replace string
	plugin := &cobra.Command{
		Use:   "plugin NAME",
		Short: "Scaffold a plugin, and a main package that builds pricemill with it",
		Long: `Create a directory NAME with a Go module: a ten-line main, a working indicator and its
test. docs/plugins.md continues from there.`,
		Example: "  pricemill new plugin daily-range\n  pricemill new plugin daily-range --replace ../pricemill",
		Args:    exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := writePlugin(args[0], replace); err != nil {
				return err
			}
			tidy := "  go mod tidy\n"
			if replace != "" {
				tidy = "" // its requirements are those of the checkout
			}
			_, err := fmt.Fprintf(a.stdout, "%s: next\n  cd %s\n%s  go test ./...\n  go run . serve\n", args[0], args[0], tidy)
			return err
		},
	}
	plugin.Flags().StringVar(&replace, "replace", "", "build with the pricemill checkout in this directory instead of a release")
	parent.AddCommand(plugin)
	return parent
}

// writePlugin writes a folder that is not there yet.
func writePlugin(name, replace string) error {
	packageName := strings.ReplaceAll(name, "-", "")
	release := moduleVersion()
	switch {
	case !newPluginName.MatchString(name) || token.IsKeyword(packageName):
		return fmt.Errorf("%w: %q is no name for a plugin: want lower case letters and digits, with hyphens in between, as in daily-range", errUsage, name)
	case slices.Contains(moduleNames(), name):
		return fmt.Errorf("%w: there is a module %q in this binary already: choose another name", errUsage, name)
	case replace == "" && release == "":
		return fmt.Errorf("%w: this binary is not a release that a plugin could require: name a checkout of pricemill with --replace", errUsage)
	}
	with := checkout{language: languageVersion()}
	if replace != "" {
		var err error
		if with, err = readCheckout(replace); err != nil {
			return err
		}
	}
	if err := os.Mkdir(name, 0o755); err != nil {
		return fmt.Errorf("making the folder: %w", err)
	}
	all, err := template.ParseFS(templates, "template/*.tmpl")
	if err != nil {
		return fmt.Errorf("reading the templates: %w", err)
	}
	values := map[string]string{"Name": name, "Package": packageName, "Version": cmp.Or(release, "v0.0.0"), "Replace": with.path,
		"Go": with.language, "Requirements": with.requirements}
	for file, from := range map[string]string{
		"go.mod": "go.mod.tmpl", "main.go": "main.go.tmpl",
		filepath.Join(packageName, packageName+".go"):      "plugin.go.tmpl",
		filepath.Join(packageName, packageName+"_test.go"): "plugin_test.go.tmpl",
	} {
		if err := fill(filepath.Join(name, file), all.Lookup(from), values); err != nil {
			return err
		}
	}
	if replace == "" {
		return nil
	}
	if err := os.WriteFile(filepath.Join(name, "go.sum"), with.sums, 0o644); err != nil {
		return fmt.Errorf("writing the plugin: %w", err)
	}
	return nil
}

// checkout is a checkout of pricemill, as far as a module that is built with it has to
// know it. With the same requirements a plugin builds with the very versions that
// the checkout is tested with, and nothing has to be looked up.
type checkout struct {
	path         string // absolute
	language     string // of its go.mod
	requirements string // blocks of its go.mod
	sums         []byte // its go.sum
}

var (
	goLine       = regexp.MustCompile(`(?m)^go (\S+)$`)
	requireBlock = regexp.MustCompile(`(?ms)^require \(\n.*?^\)\n`)
)

func readCheckout(folder string) (checkout, error) {
	path, err := filepath.Abs(folder)
	if err != nil {
		return checkout{}, fmt.Errorf("finding %s: %w", folder, err)
	}
	file, err := os.ReadFile(filepath.Join(path, "go.mod"))
	if err != nil {
		return checkout{}, fmt.Errorf("%w: --replace: %s is no checkout of pricemill: %w", errUsage, folder, err)
	}
	sums, err := os.ReadFile(filepath.Join(path, "go.sum"))
	if err != nil {
		return checkout{}, fmt.Errorf("%w: --replace: %s is no checkout of pricemill: %w", errUsage, folder, err)
	}
	language := goLine.FindStringSubmatch(string(file))
	if language == nil {
		return checkout{}, fmt.Errorf("%w: --replace: the go.mod of %s names no version of Go", errUsage, folder)
	}
	return checkout{path, language[1], strings.Join(requireBlock.FindAllString(string(file), -1), "\n"), sums}, nil
}

func fill(file string, from *template.Template, values any) (err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("making the folder of %s: %w", file, err)
	}
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("writing the plugin: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	return from.Execute(out, values)
}

// moduleVersion is the release that this binary was built from, or "": such a module
// can only be replaced.
func moduleVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	version := info.Main.Version
	for _, m := range info.Deps {
		if m.Path == pricemillModule {
			version = m.Version
		}
	}
	if !regexp.MustCompile(`^v\d+\.\d+\.\d+$`).MatchString(version) {
		return ""
	}
	return version
}

// languageVersion is that of the toolchain, without the patch.
func languageVersion() string {
	parts := strings.SplitN(strings.TrimPrefix(runtime.Version(), "go"), ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}
