package cmd_test

import (
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTheFoldersOfTheArchitecture: the list of folders in docs/architecture.md names every
// folder that holds a package of Go, and no other.
func TestTheFoldersOfTheArchitecture(t *testing.T) {
	t.Parallel()
	architecture, err := os.ReadFile("../docs/architecture.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(architecture), "\n## Folders\n")
	require.True(t, found)
	section, _, found = strings.Cut(section, "\n## ")
	require.True(t, found)
	var listed []string
	for _, name := range regexp.MustCompile("`([a-z]+(?:/[a-z]+)*)`").FindAllStringSubmatch(section, -1) {
		if info, err := os.Stat(path.Join("..", name[1])); err == nil && info.IsDir() || strings.Contains(name[1], "/") {
			listed = append(listed, name[1])
		}
	}
	held := map[string]bool{}
	require.NoError(t, fs.WalkDir(os.DirFS(".."), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != "." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata"):
			return fs.SkipDir
		case strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go"):
			held[path.Dir(name)] = true
		}
		return nil
	}))
	var folders []string
	for folder := range held {
		folders = append(folders, folder)
	}
	assert.ElementsMatch(t, folders, listed)
}
