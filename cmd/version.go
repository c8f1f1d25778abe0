package cmd

import (
	"fmt"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = ""

// versionLine is the release, the commit and its time, as far as they are known.
func versionLine() string {
	_, revision := buildVersion()
	fields := []string{"pricemill", releaseName(), revision}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.time" {
				fields = append(fields, s.Value)
			}
		}
	}
	return strings.Join(slices.DeleteFunc(fields, func(f string) bool { return f == "" }), " ")
}

// buildVersion returns the release and the commit, as far as they are known.
func buildVersion() (release, revision string) {
	release = version
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return release, ""
	}
	if release == "" && info.Main.Version != "(devel)" {
		release = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			revision = s.Value
		}
	}
	return release, revision
}

// releaseName is the release, for people and for services that we ask.
func releaseName() string {
	release, _ := buildVersion()
	if release == "" {
		return "dev"
	}
	return release
}

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  pricemill version",
		Args:    exactArgs(0),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(a.stdout, versionLine())
			return err
		},
	}
}
