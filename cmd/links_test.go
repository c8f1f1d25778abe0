package cmd_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	markdownLink    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	markdownHeading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	codeBlock       = regexp.MustCompile("(?s)```.*?```")
)

// anchors are those of the headings of a page, as GitHub makes them.
func anchors(text string) map[string]bool {
	all := map[string]bool{}
	for _, heading := range markdownHeading.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
		all[strings.ReplaceAll(regexp.MustCompile(`[^\w\s-]`).ReplaceAllString(strings.ToLower(heading[1]), ""), " ", "-")] = true
	}
	return all
}

// TestLinksBetweenDocuments: each leads to a file of the repository, and to a heading of it.
func TestLinksBetweenDocuments(t *testing.T) {
	t.Parallel()
	pages := []string{"../README.md", "../CONTRIBUTING.md", "../CHANGELOG.md"}
	for _, pattern := range []string{"../docs/*.md", "../docs/*/*.md"} {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		pages = append(pages, found...)
	}
	followed := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, link := range markdownLink.FindAllStringSubmatch(codeBlock.ReplaceAllString(string(text), ""), -1) {
			target, heading, _ := strings.Cut(link[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			file := page
			if target != "" {
				file = filepath.Join(filepath.Dir(page), target)
			}
			if _, err := os.Stat(file); !assert.NoError(t, err, "%s links to %s", page, link[1]) {
				continue
			}
			if heading != "" {
				there, err := os.ReadFile(file)
				require.NoError(t, err)
				assert.Contains(t, anchors(string(there)), heading, "%s links to %s", page, link[1])
			}
			followed++
		}
	}
	assert.Greater(t, followed, 100)
}
