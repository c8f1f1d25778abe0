package cmd

import (
	"path"
	"slices"

	"github.com/spf13/cobra"
)

// pluginKind is a kind of plugin that "pricemill new plugin" writes.
type pluginKind struct {
	name string
	// about ends a sentence that begins with "pricemill with".
	about string
	// flags are what "NAME serve" needs.
	flags string
	// files are the templates of the plugin's package, each with its place below the
	// package's folder. Those of all kinds are in commonFiles.
	files map[string]string
	// more are templates of other files, with their places in the module, and what the
	// README says about them.
	more    map[string]string
	notes   []string
	ignored string // a further line of .gitignore
}

// commonFiles are the templates of all kinds, with their places in the module.
var commonFiles = map[string]string{"go.mod.tmpl": "go.mod", "main.go.tmpl": "main.go", "README.md.tmpl": "README.md", "gitignore.tmpl": ".gitignore"}

// pluginsFolder holds the packages of plugins. The binary is named as the module and
// is written to the module's folder, so no package of the module may have that place.
const pluginsFolder = "plugins"

// pluginKinds are all kinds; the first one is the default.
func pluginKinds() []pluginKind {
	withEvent := map[string]string{"event.go.tmpl": "event.go"}
	return []pluginKind{
		{name: "projection", about: "an indicator: rows from events, and a route that answers with them"},
		{name: "handler", about: "a handler: events from events", files: withEvent},
		{name: "provider", about: "a provider: prices from a service", flags: " --config pricemill.yaml",
			files: map[string]string{"prices.json.tmpl": "testdata/normalize/prices.json", "refused.json.tmpl": "testdata/normalize/refused.json"},
			more:  map[string]string{"fakeservice.go.tmpl": "fakeservice/main.go", "pricemill.yaml.tmpl": "pricemill.yaml"},
			notes: []string{"`fakeservice`: plays the service on this machine; start it first, with `go run ./fakeservice`",
				"`pricemill.yaml`: settings that lead to it"},
			ignored: "/fake-service"},
		{name: "source", about: "a source: events from elsewhere", files: withEvent},
	}
}

func pluginKindNames() []string {
	var names []string
	for _, k := range pluginKinds() {
		names = append(names, k.name)
	}
	return names
}

// pluginKindNamed is one of pluginKindNames.
func pluginKindNamed(name string) pluginKind {
	kinds := pluginKinds()
	return kinds[slices.IndexFunc(kinds, func(k pluginKind) bool { return k.name == name })]
}

// runCommand runs the service with the plugin.
func (k pluginKind) runCommand(name string) string { return "./" + name + " serve" + k.flags }

// templates are the files of a plugin of this kind, by their places in the module.
func (k pluginKind) templates(packageName string) map[string]string {
	all := map[string]string{}
	add := func(folder string, files map[string]string, below string) {
		for from, to := range files {
			all[path.Join(below, to)] = path.Join("template", folder, from)
		}
	}
	below := path.Join(pluginsFolder, packageName)
	add("", commonFiles, "")
	add(k.name, map[string]string{"plugin.go.tmpl": packageName + ".go", "plugin_test.go.tmpl": packageName + "_test.go"}, below)
	add(k.name, k.files, below)
	add(k.name, k.more, "")
	return all
}

// kindsOfPlugins are completions of --kind.
func kindsOfPlugins(completing) []cobra.Completion {
	var all []cobra.Completion
	for _, k := range pluginKinds() {
		all = append(all, described(k.name, k.about))
	}
	return all
}
