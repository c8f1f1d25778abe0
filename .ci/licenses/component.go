package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-licenses/v2/licenses"
	"golang.org/x/mod/module"
)

// component is something of one version with licences.
type component struct {
	name, version string
	licences      []string // sorted
	texts         []text
}

// text is a file of a component, with a licence or a notice.
type text struct{ file, content string }

// noticeNames are the names of files that a licence asks to pass on.
var noticeNames = regexp.MustCompile(`(?i)^((un)?licen[cs]e|copying|copyright|notice|patents)([-.].*)?$|\.licen[cs]e\.txt$`)

// source is a file of Go, which may be called license.go.
var source = regexp.MustCompile(`\.go$`)

// addFolder adds the licences and notices that are in a folder, without those below it.
func (c *component) addFolder(classifier licenses.Classifier, folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("looking for the licence of %s: %w", c.name, err)
	}
	for _, entry := range entries {
		if name := entry.Name(); entry.Type().IsRegular() && noticeNames.MatchString(name) && !source.MatchString(name) {
			if err := c.add(classifier, filepath.Join(folder, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// add adds one file.
func (c *component) add(classifier licenses.Classifier, path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the licence of %s: %w", c.name, err)
	}
	next := text{filepath.Base(path), tidy(string(content))}
	if slices.Contains(c.texts, next) {
		return nil
	}
	c.texts = append(c.texts, next)
	recognised, err := classifier.Identify(path)
	if err != nil {
		return fmt.Errorf("recognising the licence of %s: %w", c.name, err)
	}
	for _, licence := range recognised {
		if i, known := slices.BinarySearch(c.licences, licence.Name); !known {
			c.licences = slices.Insert(c.licences, i, licence.Name)
		}
	}
	return nil
}

// tidy makes the same text of what differs in line ends and blank lines alone.
func tidy(s string) string {
	lines := strings.Split(strings.ReplaceAll(s, "\r\n", "\n"), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " \t")
	}
	return strings.Trim(strings.Join(lines, "\n"), "\n\f") + "\n"
}

// linked are the modules that the program is linked with on any platform.
func linked(ctx context.Context, classifier licenses.Classifier) ([]*component, error) {
	cache, err := goEnv(ctx, "GOMODCACHE")
	if err != nil {
		return nil, err
	}
	byName := map[string]*component{}
	for _, platform := range platforms {
		system, processor, _ := strings.Cut(platform, "/")
		for name, value := range map[string]string{"GOOS": system, "GOARCH": processor, "CGO_ENABLED": "0"} {
			if err := os.Setenv(name, value); err != nil {
				return nil, err
			}
		}
		libraries, err := licenses.Libraries(ctx, classifier, false, []string{ownModule}, program)
		if err != nil {
			return nil, fmt.Errorf("finding the licences for %s: %w", platform, err)
		}
		for _, library := range libraries {
			if err := addLibrary(byName, cache, classifier, library); err != nil {
				return nil, err
			}
		}
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b *component) int { return cmp.Compare(a.name, b.name) }), nil
}

// addLibrary adds what is in the root of the library's module, and where the
// library's licence is.
func addLibrary(byName map[string]*component, cache string, classifier licenses.Classifier, library *licenses.Library) error {
	if library.LicenseFile == "" {
		file, err := chosenFile(library.Name())
		if err != nil {
			return err
		}
		library.LicenseFile = file
	}
	root, name, version, err := moduleOf(cache, library.LicenseFile)
	if err != nil {
		return err
	}
	c := byName[name]
	if c == nil {
		c = &component{name: name, version: version}
		byName[name] = c
	}
	// The licence may be in a file that is called otherwise, such as a README.
	return errors.Join(c.addFolder(classifier, root), c.addFolder(classifier, filepath.Dir(library.LicenseFile)), c.add(classifier, library.LicenseFile))
}

// chosen are the modules that leave the choice between licences to their users, each
// with the file of the licence under which it is used here. Their own LICENSE only says
// that there is a choice.
var chosen = map[string]string{"github.com/golang/freetype": "licenses/ftl.txt"}

// chosenFile is the licence under which a package is used whose module has a choice.
func chosenFile(library string) (string, error) {
	for name, file := range chosen {
		if library != name && !strings.HasPrefix(library, name+"/") {
			continue
		}
		out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", name).Output()
		if err != nil {
			return "", fmt.Errorf("finding the module %s: %w", name, err)
		}
		return filepath.Join(strings.TrimSpace(string(out)), filepath.FromSlash(file)), nil
	}
	return "", fmt.Errorf("no licence found for %s", library)
}

// moduleOf is the module that a file of the module cache belongs to.
func moduleOf(cache, file string) (root, name, version string, err error) {
	relative, err := filepath.Rel(cache, file)
	if err != nil {
		return "", "", "", err
	}
	escaped, rest, found := strings.Cut(filepath.ToSlash(relative), "@")
	escapedVersion, _, below := strings.Cut(rest, "/")
	if !found || !below {
		return "", "", "", fmt.Errorf("%s is not in the module cache %s", file, cache)
	}
	if name, err = module.UnescapePath(escaped); err != nil {
		return "", "", "", err
	}
	if version, err = module.UnescapeVersion(escapedVersion); err != nil {
		return "", "", "", err
	}
	return filepath.Join(cache, escaped+"@"+escapedVersion), name, version, nil
}

func goEnv(ctx context.Context, name string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", name).Output()
	if err != nil {
		return "", fmt.Errorf("asking go for %s: %w", name, err)
	}
	return strings.TrimSpace(string(out)), nil
}
