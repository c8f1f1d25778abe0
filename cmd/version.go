package cmd

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = ""

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
			_, revision := buildVersion()
			_, err := fmt.Fprintln(a.stdout, "pricemill", releaseName(), revision)
			return err
		},
	}
}
