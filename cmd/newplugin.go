package cmd

import (
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

// newPluginName is kebab case, as a projection's name is.
var newPluginName = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)

func newNew(a *app) *cobra.Command {
	parent := &cobra.Command{
		Use:   "new",
		Short: "Write the beginning of something of your own",
	}
	var replace string
	plugin := &cobra.Command{
		Use:   "plugin NAME",
		Short: "Write a plugin, and a program that is pricemill with it",
		Long: `Write a folder NAME with a Go module: a main of ten lines, an indicator that works,
and its test. docs/plugins.md goes on from there.`,
		Example: "  pricemill new plugin daily-range\n  pricemill new plugin daily-range --replace ../pricemill",
		Args:    exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := writePlugin(args[0], replace); err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "%s: next\n  cd %s\n  go mod tidy\n  go test ./...\n  go run . serve\n", args[0], args[0])
			return nil
		},
	}
	plugin.Flags().StringVar(&replace, "replace", "", "directory of a checkout of pricemill to build with, instead of a release")
	parent.AddCommand(plugin)
	return parent
}

// writePlugin writes a folder that is not there yet.
func writePlugin(name, replace string) error {
	packageName := strings.ReplaceAll(name, "-", "")
	switch {
	case !newPluginName.MatchString(name) || token.IsKeyword(packageName):
		return fmt.Errorf("%w: %q is no name for a plugin: want lower case letters and digits, with hyphens in between, as in daily-range", errUsage, name)
	case slices.Contains(moduleNames(), name):
		return fmt.Errorf("%w: there is a module %q in this binary already: choose another name", errUsage, name)
	}
	if replace != "" {
		absolute, err := filepath.Abs(replace)
		if err != nil {
			return fmt.Errorf("finding %s: %w", replace, err)
		}
		if _, err := os.Stat(filepath.Join(absolute, "go.mod")); err != nil {
			return fmt.Errorf("%w: --replace: %s is no checkout of pricemill: %w", errUsage, replace, err)
		}
		replace = absolute
	}
	if err := os.Mkdir(name, 0o755); err != nil {
		return fmt.Errorf("making the folder: %w", err)
	}
	all, err := template.ParseFS(templates, "template/*.tmpl")
	if err != nil {
		return fmt.Errorf("reading the templates: %w", err)
	}
	values := map[string]string{"Name": name, "Package": packageName, "Version": moduleVersion(), "Replace": replace,
		"Go": languageVersion()}
	for file, from := range map[string]string{
		"go.mod": "go.mod.tmpl", "main.go": "main.go.tmpl",
		filepath.Join(packageName, packageName+".go"):      "plugin.go.tmpl",
		filepath.Join(packageName, packageName+"_test.go"): "plugin_test.go.tmpl",
	} {
		if err := fill(filepath.Join(name, file), all.Lookup(from), values); err != nil {
			return err
		}
	}
	return nil
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

// moduleVersion is the release that this binary was built of, or what stands for
// none: such a module can only be replaced.
func moduleVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "v0.0.0"
	}
	version := info.Main.Version
	for _, m := range info.Deps {
		if m.Path == "github.com/pricemill/pricemill" {
			version = m.Version
		}
	}
	if !regexp.MustCompile(`^v\d+\.\d+\.\d+$`).MatchString(version) {
		return "v0.0.0"
	}
	return version
}

// languageVersion is that of the toolchain, without the patch.
func languageVersion() string {
	parts := strings.SplitN(strings.TrimPrefix(runtime.Version(), "go"), ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}
