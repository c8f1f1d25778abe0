package cmd

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pricemill/pricemill/handlers/provider/csv"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// completionTimeout is how long a person at a shell waits for names that the service
// knows. Without an answer there are none.
const completionTimeout = time.Second

// values finds what a word on the command line may be.
type values func(q completing) []cobra.Completion

// completing is a word that is being completed.
type completing struct {
	app     *app
	command *cobra.Command
	args    []string // before it
	word    string   // as far as it is typed
}

// argumentValues are those of arguments, by the word for the argument in Use.
var argumentValues = map[string]values{
	"SYMBOL":     listed("/symbols?limit=1000", "symbol"),
	"INDICATOR":  listed("/indicators", "name", "description"),
	"JOB":        func(q completing) []cobra.Completion { return q.jobs() },
	"STREAM":     listed("/streams?limit=1000", "stream_id", "provider"),
	"BACKFILL":   listed("/backfills?limit=1000", "backfill_id", "status"),
	"PROVIDER":   providersHere,
	"STAGE":      stageNames,
	"TOPIC":      func(completing) []cobra.Completion { return plain(schema.Topics()) },
	"PROJECTION": func(completing) []cobra.Completion { return plain(projectionNames()) },
	"GENERATION": generationNumbers,
	"REBUILD":    listed("/rebuilds?limit=100", "rebuild_id", "projection"),
	"ID":         listed("/dead-letters?limit=1000", "id", "stage"),
}

// flagValues are those of flags, by name. Flags with a choice have theirs themselves.
var flagValues = map[string]values{
	"provider":   providersHere,
	"projection": func(completing) []cobra.Completion { return plain(projectionNames()) },
	"preset":     func(completing) []cobra.Completion { return plain(append(csv.PresetNames(), "none")) },
	"roles":      func(q completing) []cobra.Completion { return q.commas(roleNames) },
	"stage":      stageNames,
	"kind":       kindsOfPlugins,
}

// pathArguments and pathFlags name files or directories, which the shell completes.
var (
	pathArguments = []string{"FILE", "DIR"}
	pathFlags     = []string{"config", "sample", "data-dir", "cpuprofile", "memprofile", "replace"}
)

// completeValues has every argument and flag of the commands at and below c completed.
func (a *app) completeValues(c *cobra.Command) {
	words := argumentWords(c.Use)
	if c.ValidArgsFunction == nil && c.Parent() != nil && c.Name() != "help" {
		c.ValidArgsFunction = func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
			at := len(args)
			if len(words) == 1 && strings.HasSuffix(words[0], "...") {
				at = 0
			}
			if at >= len(words) {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			name := strings.TrimSuffix(words[at], "...")
			if slices.Contains(pathArguments, name) {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return complete(argumentValues[name], completing{a, c, args, word})
		}
	}
	c.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
		if slices.Contains(pathFlags, f.Name) {
			return
		}
		find := flagValues[f.Name]
		if o, ok := f.Value.(choice); ok && find == nil {
			find = func(completing) []cobra.Completion { return plain(o.known) }
		}
		// It fails only where there is no such flag, or it has values already.
		_ = c.RegisterFlagCompletionFunc(f.Name, func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return complete(find, completing{a, c, args, word})
		})
	})
	for _, child := range c.Commands() {
		if child.Name() != "completion" {
			a.completeValues(child)
		}
	}
}

// argumentWords are the words of Use for the arguments: those before the first flag.
func argumentWords(use string) []string {
	use, _, _ = strings.Cut(use, " --")
	words := strings.Fields(use)[1:]
	for i, word := range words {
		words[i] = strings.Trim(word, "[]")
	}
	return words
}

func complete(find values, q completing) ([]cobra.Completion, cobra.ShellCompDirective) {
	if find == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	seen := map[string]bool{} // two providers may have one symbol
	found := slices.DeleteFunc(find(q), func(one cobra.Completion) bool {
		name, _, _ := strings.Cut(one, "\t")
		again := seen[name]
		seen[name] = true
		return again || !strings.HasPrefix(name, q.word) || slices.Contains(q.args, name)
	})
	return found, cobra.ShellCompDirectiveNoFileComp
}

func plain[S ~string](known []S) []cobra.Completion {
	all := make([]cobra.Completion, len(known))
	for i, k := range known {
		all[i] = string(k)
	}
	return all
}

// commas are completions of the last word of a list.
func (q completing) commas(known []string) []cobra.Completion {
	before := q.word[:strings.LastIndex(q.word, ",")+1]
	taken := strings.Split(before, ",")
	var all []cobra.Completion
	for _, k := range known {
		if !slices.Contains(taken, k) {
			all = append(all, before+k)
		}
	}
	return all
}

func projectionNames() []string {
	var known []string
	for _, module := range pipeline.Projections() {
		known = append(known, module.Name)
	}
	return known
}

func providersHere(q completing) []cobra.Completion {
	providers := providerList(pipeline.Providers())
	if c, err := q.app.load(); err == nil { // what is wrong is for other commands to say
		providers = c.Providers
	}
	var all []cobra.Completion
	for _, module := range providers {
		all = append(all, described(string(module.Name), module.Doc))
	}
	return all
}

func described(name, about string) cobra.Completion {
	if about == "" {
		return name
	}
	return cobra.CompletionWithDesc(name, about)
}

// listed are the values of a member of the items of a list of the API, with those of
// other members as descriptions.
func listed(path, member string, about ...string) values {
	return func(q completing) []cobra.Completion {
		return q.list(path, member, strings.Join(about, ""), func(map[string]any) bool { return true })
	}
}

// list asks the service. What it does not answer in time is not completed.
func (q completing) list(path, member, about string, wanted func(map[string]any) bool) []cobra.Completion {
	var all []cobra.Completion
	for _, item := range q.items(path) {
		if wanted(item) {
			all = append(all, described(text(item[member]), text(item[about])))
		}
	}
	return all
}

func text(value any) string {
	if value == nil {
		return ""
	}
	return cell(value)
}

// client asks the service as the command would, without a word on standard error.
func (q completing) client() (*client, context.Context, context.CancelFunc) {
	silent := *q.app
	silent.stderr = io.Discard
	cl := &client{app: &silent}
	if f := q.command.Flags().Lookup("url"); f != nil {
		cl.url = f.Value.String()
	}
	ctx, cancel := context.WithTimeout(q.command.Context(), completionTimeout)
	return cl, ctx, cancel
}

// items are those of a list of the service; none where it does not answer in time.
func (q completing) items(path string) []map[string]any {
	cl, ctx, cancel := q.client()
	defer cancel()
	var page struct{ Items []json.RawMessage }
	if cl.do(ctx, http.MethodGet, path, nil, nil, &page) != nil {
		return nil
	}
	var items []map[string]any
	for _, raw := range page.Items {
		item, err := readItem(raw)
		if err != nil {
			return nil
		}
		items = append(items, item)
	}
	return items
}

// jobs are those that the command is for: only those that are paused are resumed.
func (q completing) jobs() []cobra.Completion {
	states := map[string][]string{"pause": {"active"}, "resume": {"paused"}, "stop": {"active", "paused"}}[q.command.Name()]
	var all []cobra.Completion
	for _, item := range q.items("/prices/poll?limit=1000") {
		if config, ok := item["config"].(map[string]any); ok && slices.Contains(states, text(item["status"])) {
			all = append(all, described(text(item["job_id"]), cell(config["symbols"])))
		}
	}
	return all
}

// stageNames are those of the stages that the service runs.
func stageNames(q completing) []cobra.Completion {
	cl, ctx, cancel := q.client()
	defer cancel()
	base, err := cl.base()
	if err != nil {
		return nil
	}
	k, err := q.app.values(&faults{})
	if err != nil {
		return nil
	}
	is, _, err := askHealth(ctx, base+"/readyz", k.String("tls_cert_file"))
	if err != nil {
		return nil
	}
	var all []cobra.Completion
	for _, check := range is.Checks {
		if stage, found := strings.CutPrefix(check.Name, "stage "); found {
			all = append(all, stage)
		}
	}
	return all
}

// generationNumbers are those of the projection that the word before names.
func generationNumbers(q completing) []cobra.Completion {
	var all []cobra.Completion
	for _, stage := range stageNames(q) {
		if number, found := strings.CutPrefix(stage, q.args[len(q.args)-1]+".g"); found {
			all = append(all, number)
		}
	}
	return all
}
