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

//go:embed template
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
	var replace, kind string
	plugin := &cobra.Command{
		Use:   "plugin NAME",
		Short: "Scaffold a plugin, and a main package of pricemill with it",
		Long: `Create a directory NAME with a Go module: a ten-line main, a working plugin and
its test. docs/plugins.md continues from there. The kinds of plugins:

  projection  an indicator: rows from events, and a route that answers with them
  handler     events from events
  provider    prices from a service
  source      events from elsewhere`,
		Example: "  pricemill new plugin daily-range\n  pricemill new plugin jumps --kind handler --replace ../pricemill",
		Args:    exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			name := args[0]
			k := pluginKindNamed(kind)
			if err := writePlugin(name, k, replace); err != nil {
				return err
			}
			tidy := "  go mod tidy\n"
			if replace != "" {
				tidy = "" // its requirements are those of the checkout
			}
			_, err := fmt.Fprintf(a.stdout, "%s: next\n  cd %s\n%s  go test ./...\n  go build\n  %s\n", name, name, tidy, k.runCommand(name))
			return err
		},
	}
	plugin.Flags().StringVar(&replace, "replace", "", "build with the pricemill checkout in this directory instead of a release")
	choiceFlag(plugin, &kind, "kind", "", pluginKindNames(), "kind of plugin: ")
	parent.AddCommand(plugin)
	return parent
}

// reservedNames are those of packages that the code of a plugin imports, or has.
var reservedNames = []string{"main", "plugins", "fakeservice", "pipeline", "pipelinetest", "projections", "projectiontest", "providertest",
	"schema", "store", "payload", "rest", "rapid", "cmd", "standard",
	"bytes", "context", "sql", "json", "errors", "filepath", "flag", "fmt", "fs", "http", "io", "log", "maps", "os", "slices", "slog", "strconv", "strings", "testing", "time", "url"}

// writePlugin writes a folder that is not there yet.
func writePlugin(name string, k pluginKind, replace string) error {
	packageName := strings.ReplaceAll(name, "-", "")
	release := moduleVersion()
	switch {
	case !newPluginName.MatchString(name) || token.IsKeyword(packageName):
		return fmt.Errorf("%w: %q is no name for a plugin: want lower case letters and digits, with hyphens in between, as in daily-range", errUsage, name)
	case slices.Contains(reservedNames, packageName):
		return fmt.Errorf("%w: %q is the name of a package that the plugin's code uses: choose another name", errUsage, name)
	case slices.Contains(moduleNames(), name):
		return fmt.Errorf("%w: there is a module %q in this binary already: choose another name", errUsage, name)
	case replace == "" && release == "":
		return fmt.Errorf("%w: this binary was built from a checkout and is not a release that a plugin could require. Build the plugin with the checkout:\n  pricemill new plugin %s --kind %s --replace %s",
			errUsage, name, k.name, findCheckout())
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
	values := map[string]any{"Name": name, "Package": packageName, "Table": strings.ReplaceAll(name, "-", "_"), "Kind": k.name, "About": k.about,
		"Run": k.runCommand(name), "Files": k.notes, "Ignored": k.ignored, "Module": pricemillModule,
		"Version": cmp.Or(release, "v0.0.0"), "Replace": with.path, "Go": with.language, "Requirements": with.requirements}
	for file, from := range k.templates(packageName) {
		one, err := template.ParseFS(templates, from)
		if err != nil {
			return fmt.Errorf("reading the template of %s: %w", file, err)
		}
		if err := fill(filepath.Join(name, filepath.FromSlash(file)), one, values); err != nil {
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

// findCheckout is the checkout that holds this binary, or else the working directory;
// a name to fill in where neither is in one.
func findCheckout() string {
	self, _ := os.Executable() // "" is below no checkout
	here, _ := os.Getwd()
	for _, dir := range []string{filepath.Dir(self), here} {
		for ; filepath.IsAbs(dir); dir = filepath.Dir(dir) {
			file, err := os.ReadFile(filepath.Join(dir, "go.mod"))
			if err == nil && strings.HasPrefix(string(file), "module "+pricemillModule+"\n") {
				return dir
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "PATH/TO/pricemill"
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
