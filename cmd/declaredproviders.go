package cmd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/knadh/koanf/v2"

	"github.com/pricemill/pricemill/handlers/provider/declared"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// providerList is the providers of an installation, by name.
type providerList []pipeline.ProviderModule

// that are the names of those of which something is so.
func (l providerList) that(is func(pipeline.ProviderModule) bool) []schema.Provider {
	var names []schema.Provider
	for _, m := range l {
		if is(m) {
			names = append(names, m.Name)
		}
	}
	return names
}

func (l providerList) names() []schema.Provider {
	return l.that(func(pipeline.ProviderModule) bool { return true })
}

// simulated are those whose prices are made up.
func (l providerList) simulated() []schema.Provider {
	return l.that(func(m pipeline.ProviderModule) bool { return m.Simulated })
}

func (l providerList) caseSensitive() []schema.Provider {
	return l.that(func(m pipeline.ProviderModule) bool { return m.CaseSensitive })
}

// aliases are the names of providers by their other names.
func (l providerList) aliases() map[string]schema.Provider {
	aliases := map[string]schema.Provider{}
	for _, m := range l {
		for _, alias := range m.Aliases {
			aliases[string(alias)] = m.Name
		}
	}
	return aliases
}

// definitionsName is the name of the directory of definitions in the data directory.
const definitionsName = "providers"

// readProviders lists the providers that are compiled in, and those that the files of a
// directory declare.
func (c *config) readProviders(k *koanf.Koanf, wrong *faults) {
	c.Providers = pipeline.Providers()
	directory := k.String("providers_dir")
	if directory == "" {
		directory = filepath.Join(c.DataDir, definitionsName)
	}
	files, err := os.ReadDir(directory)
	if errors.Is(err, fs.ErrNotExist) && k.String("providers_dir") == "" {
		return
	}
	if err != nil {
		wrong.add("providers_dir", "%v", err)
		return
	}
	taken := c.Providers.takenNames()
	for _, file := range files {
		if file.IsDir() || filepath.Ext(file.Name()) != ".yaml" {
			continue
		}
		path := filepath.Join(directory, file.Name())
		d, err := readDefinition(path)
		if err != nil {
			wrong.add("providers_dir", "%s: %v", path, err)
			continue
		}
		if by, is := taken[string(d.Name())]; is {
			wrong.add("providers_dir", "%s: the name %q is %s", path, d.Name(), by)
			continue
		}
		taken[string(d.Name())] = "declared by " + path
		c.Providers = append(c.Providers, d.Module())
	}
	slices.SortFunc(c.Providers, func(a, b pipeline.ProviderModule) int { return strings.Compare(string(a.Name), string(b.Name)) })
}

// takenNames are the names that no file may declare, each with the reason.
func (l providerList) takenNames() map[string]string {
	taken := map[string]string{}
	for _, name := range moduleNames() {
		taken[name] = "compiled into this binary"
	}
	for alias, name := range l.aliases() {
		taken[alias] = "another name of the provider " + string(name)
	}
	return taken
}

func readDefinition(path string) (*declared.Definition, error) {
	text, err := readAtMost(path, declared.MaxFile+1)
	if err != nil {
		return nil, err
	}
	return declared.Parse(text)
}

// declaredSettings are those of providers that are declared.
func (l providerList) declaredSettings() []setting {
	var all []setting
	for _, m := range l {
		if defaults, ok := m.Settings.(declared.Settings); ok {
			name := string(m.Name)
			all = append(all,
				setting{strings.ToLower(declared.KeySetting(m.Name)), "", "API key of " + name, true},
				setting{strings.ToLower(declared.BaseURLSetting(m.Name)), defaults.BaseURL, "base URL of " + name + "; https, or http to this machine", false})
			if defaults.WSURL != "" {
				all = append(all, setting{strings.ToLower(declared.WSURLSetting(m.Name)), defaults.WSURL,
					"WebSocket URL of " + name + "; wss, or ws to this machine", false})
			}
		}
	}
	return all
}

// declaredValue is the value of one of declaredSettings, and where it comes from: origin
// if that is the environment, else a section of the configuration file.
func (c config) declaredValue(s setting, origin, file string) (value, from string) {
	for _, m := range c.Providers {
		for _, one := range (providerList{m}).declaredSettings() {
			if one != s {
				continue
			}
			value, given := c.Modules[string(m.Name)][s.moduleKey()].(string)
			switch {
			case !given:
				return s.standard, origin
			case origin == "default":
				return value, file
			}
			return value, origin
		}
	}
	return s.standard, origin
}

// moduleKey is the key of one of declaredSettings in its module's section.
func (s setting) moduleKey() string {
	switch {
	case s.secret:
		return "api_key"
	case strings.HasSuffix(s.key, "_ws_url"):
		return "ws_url"
	}
	return "base_url"
}

// shownSettings are the settings of the providers that files declare, and of those that
// are compiled in only what is set.
func (c config) shownSettings() []setting {
	compiled := providerList(pipeline.Providers()).names()
	var all []setting
	for _, m := range c.Providers {
		for _, s := range (providerList{m}).declaredSettings() {
			if _, set := c.Modules[string(m.Name)][s.moduleKey()]; set || !slices.Contains(compiled, m.Name) {
				all = append(all, s)
			}
		}
	}
	return all
}

// readDeclared reads the settings of providers that are declared.
func (c *config) readDeclared(a *app, set func(module, key string, value any), wrong *faults) {
	for _, m := range c.Providers {
		for _, s := range (providerList{m}).declaredSettings() {
			if value := a.fromEnvironment(s, wrong); value != "" {
				set(string(m.Name), s.moduleKey(), value)
			}
		}
	}
}
