package cmd_test

import (
	"bytes"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/cmd"
)

// runWith runs a command without any setting and returns its status and output.
func runWith(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = cmd.Main(t.Context(), args, environment{"DATA_DIR": t.TempDir()}.lookup, &out, &errs)
	return status, out.String(), errs.String()
}

var listedCommand = regexp.MustCompile(`(?m)^  ([a-z-]+) `)

// subcommands are those that the help of a command lists.
func subcommands(t *testing.T, path ...string) []string {
	t.Helper()
	status, help, stderr := runWith(t, append(slices.Clone(path), "--help")...)
	require.Zero(t, status, "%v: %s", path, stderr)
	_, list, found := strings.Cut(help, "Available Commands:\n")
	if !found {
		return nil
	}
	list, _, _ = strings.Cut(list, "\n\n")
	var names []string
	for _, match := range listedCommand.FindAllStringSubmatch(list, -1) {
		names = append(names, match[1])
	}
	require.NotEmpty(t, names, "subcommands of %v", path)
	return names
}

// groups are all commands that have subcommands, the program itself first.
func groups(t *testing.T, path ...string) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	names := subcommands(t, path...)
	if len(names) > 0 {
		found[strings.Join(path, " ")] = names
	}
	for _, name := range names {
		for group, members := range groups(t, append(slices.Clone(path), name)...) {
			found[group] = members
		}
	}
	return found
}

func TestMisspeltSubcommands(t *testing.T) {
	t.Parallel()
	all := groups(t)
	for _, group := range []string{"", "poll", "bench", "dead-letters", "new", "completion", "stages", "rebuild", "generations"} {
		require.Contains(t, all, group)
	}
	for group, names := range all {
		path := strings.Fields(group)
		for _, name := range names {
			misspelt := name[:1] + "q" + name[1:]
			status, stdout, stderr := runWith(t, append(slices.Clone(path), misspelt)...)
			assert.Equal(t, 2, status, "%q %s", group, misspelt)
			assert.Contains(t, stderr, `did you mean "`+name+`"?`, "%q %s", group, misspelt)
			assert.Empty(t, stdout, "%q %s", group, misspelt)
			status, stdout, stderr = runWith(t, append([]string{"help"}, append(slices.Clone(path), misspelt)...)...)
			assert.Equal(t, 2, status, "help %q %s", group, misspelt)
			assert.Contains(t, stderr, `did you mean "`+name+`"?`, "help %q %s", group, misspelt)
			assert.Empty(t, stdout, "help %q %s", group, misspelt)
		}
	}
}

// A script that forgets the subcommand must not take a help page for success.
func TestGroupsNeedASubcommand(t *testing.T) {
	t.Parallel()
	for group, names := range groups(t) {
		status, stdout, stderr := runWith(t, strings.Fields(group)...)
		assert.Equal(t, 2, status, group)
		assert.Empty(t, stdout, group)
		if !slices.Contains([]string{"rebuild", "backfill", "renormalize"}, group) { // these do something themselves
			for _, name := range names {
				assert.Contains(t, stderr, "\n  "+name+" ", group)
			}
		}
		assert.NotContains(t, stderr, "panic", group)
	}
}

func TestWrongUseOfCommandsIsStatus2(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--nonsense"}, {"poll", "--nonsense"}, {"completion", "bash", "more"}, {"completion", "--nonsense"},
		{"version", "more"}, {"help", "version", "more"}} {
		status, _, stderr := runWith(t, args...)
		assert.Equal(t, 2, status, "%q: %s", args, stderr)
	}
}

func TestHelpAndCompletion(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"help"}, {"help", "poll"}, {"help", "poll", "list"}, {"poll", "--help"}, {"--help"}, {"completion", "bash"}} {
		status, stdout, stderr := runWith(t, args...)
		assert.Zero(t, status, "%q", args)
		assert.NotEmpty(t, stdout, "%q", args)
		assert.Empty(t, stderr, "%q", args)
	}
}

// TestNothingIsThereYet: a command that asks about an installation makes none, and does
// not call one empty or whole that is not there.
func TestNothingIsThereYet(t *testing.T) {
	t.Parallel()
	for _, command := range []string{
		"verify", "stages list", "stages resume raw-store", "dead-letters list", "generations list",
		"rebuild moving-averages", "rebuild list", "replay price-events",
	} {
		dir := filepath.Join(t.TempDir(), "misspelt")
		status, stdout, stderr := run(t, environment{}, append(strings.Fields(command), "--data-dir", dir)...)
		assert.Equal(t, 1, status, command)
		assert.Empty(t, stdout, command)
		assert.Contains(t, stderr, "nothing has been written here yet", command)
		assert.Contains(t, stderr, dir, command)
		assert.NoDirExists(t, dir, command)

		// A database whose tables are there, and no topic.
		status, _, stderr = run(t, environment{}, "migrate", "--data-dir", dir)
		require.Zero(t, status, stderr)
		status, stdout, stderr = run(t, environment{}, append(strings.Fields(command), "--data-dir", dir)...)
		assert.Equal(t, 1, status, command)
		assert.Empty(t, stdout, command)
		assert.Contains(t, stderr, "nothing has been written here yet", command)
	}
}
