// Package declared makes providers of definitions: YAML files that say how a REST service
// is asked, and where in its answers the price is. docs/providers.md is their manual.
package declared

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pricemill/pricemill/handlers/remote"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/names"
)

// MaxFile is the largest definition, in bytes.
const MaxFile = 64 << 10

// ErrDefinition is wrapped by every fault of a definition.
var ErrDefinition = errors.New("not a provider's definition")

// Definition is a definition that was read and compiled. It is immutable, and safe for
// concurrent use.
type Definition struct {
	text    string
	version string
	file    file
	request request
	headers map[string]template
	symbol  program // nil code: the symbol as it is
	rules   []rule
	read    reading
	past    *past      // nil: the service has no history
	stream  *streaming // nil: none

	described described
}

// file is the form of a file.
type file struct {
	Name    schema.Provider   `yaml:"name"`
	Doc     string            `yaml:"doc"`
	BaseURL string            `yaml:"base_url"`
	Request string            `yaml:"request"`
	Headers map[string]string `yaml:"headers"`
	Limits  []limit           `yaml:"limits"`
	Symbol  string            `yaml:"symbol"`
	Answers []answer          `yaml:"answers"`
	Read    read              `yaml:"read"`
	Stream  *stream           `yaml:"stream"`
	History *history          `yaml:"history"`

	Instrument *instrument `yaml:"instrument"`
}

type limit struct {
	Calls int           `yaml:"calls"`
	Per   time.Duration `yaml:"per"`
}

// answer is a rule that says what an answer means.
type answer struct {
	Status int         `yaml:"status"`
	When   string      `yaml:"when"`
	Means  schema.Code `yaml:"means"`
}

// read says where in an answer the price is. All but Unit and Signed are jq.
type read struct {
	Entry  string `yaml:"entry"`
	Symbol string `yaml:"symbol"`
	Price  string `yaml:"price"`
	Signed bool   `yaml:"signed"`
	Time   string `yaml:"time"`
	Unit   string `yaml:"unit"`
	Size   string `yaml:"size"`
	ID     string `yaml:"id"`
	Bar    *bar   `yaml:"bar"`
}

type bar struct {
	Open   string        `yaml:"open"`
	High   string        `yaml:"high"`
	Low    string        `yaml:"low"`
	Close  string        `yaml:"close"`
	Volume string        `yaml:"volume"`
	Span   time.Duration `yaml:"span"`
}

// The bounds of a bar's span.
const minSpan, maxSpan = time.Second, 31 * 24 * time.Hour

// meanings are what an answer may mean.
var meanings = []schema.Code{schema.CodeUnknownSymbol, schema.CodeRateLimited, schema.CodeUnauthorized, schema.CodeUnavailable}

var namePattern = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)

// Parse reads a definition. Its error names everything that is wrong, and wraps
// ErrDefinition.
func Parse(text []byte) (*Definition, error) {
	f, err := decode(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDefinition, err)
	}
	sum := sha256.Sum256(text)
	d := &Definition{text: string(text), version: hex.EncodeToString(sum[:16]), file: f}
	var errs []error
	fault := func(key string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s%s: %w", lineOf(text, key), key, err))
		}
	}
	if !namePattern.MatchString(string(f.Name)) || f.Name.IsView() || f.Name.Validate() != nil {
		fault("name", fmt.Errorf("%q is no name: want lower case letters, digits and hyphens, as in my-service", f.Name))
	}
	_, err = remote.ParseBaseURL(f.BaseURL)
	fault("base_url", err)
	d.request, err = parseRequest(f.Request)
	fault("request", err)
	d.headers = parseHeaders(f.Headers, fault)
	d.checkLimits(fault)
	d.symbol, err = compile(f.Symbol, symbolVariable)
	fault("symbol", err)
	d.parseRules(fault)
	d.read = parseRead(f.Read, func(key string, err error) { fault("read: "+key, err) })
	d.parseHistory(fault)
	d.parseStream(fault)
	d.parseInstrument(fault)
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDefinition, err)
	}
	return d, nil
}

// lineOf is "line 16: " for a key such as "read: bar: open" or "answers: rule 3: when"; ""
// for one that is not there.
func lineOf(text []byte, key string) string {
	var document yaml.Node
	if yaml.Unmarshal(text, &document) != nil || len(document.Content) == 0 {
		return ""
	}
	node, line := document.Content[0], 0
	for step := range strings.SplitSeq(key, ": ") {
		next, nextLine := member(node, step)
		if next == nil {
			return ""
		}
		node, line = next, nextLine
	}
	return fmt.Sprintf("line %d: ", line)
}

// member is the value of a key, or a rule, and its line; nil for none.
func member(node *yaml.Node, step string) (*yaml.Node, int) {
	if number, isRule := strings.CutPrefix(step, "rule "); isRule {
		if i, err := strconv.Atoi(number); err == nil && node.Kind == yaml.SequenceNode && i <= len(node.Content) {
			return node.Content[i-1], node.Content[i-1].Line
		}
	}
	if node.Kind != yaml.MappingNode {
		return nil, 0
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == step {
			return node.Content[i+1], node.Content[i].Line
		}
	}
	return nil, 0
}

func parseHeaders(texts map[string]string, fault func(string, error)) map[string]template {
	headers := map[string]template{}
	for name, text := range texts {
		var err error
		switch headers[name], err = parseTemplate(text, keyPlaces...); {
		case err != nil:
		case !headerName.MatchString(name):
			err = errors.New("no name of a header")
		case strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }):
			err = errors.New("holds characters that no header has")
		case secretHeader.MatchString(name) && !headers[name].hasKey():
			// The text of a definition is kept in the database.
			err = errors.New("want {key} in it: a key does not belong in a definition")
		}
		fault("headers: "+name, err)
	}
	return headers
}

var (
	headerName   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]*$`)
	secretHeader = regexp.MustCompile(`(?i)authorization|cookie|key|token|secret`)
)

func (d *Definition) checkLimits(fault func(string, error)) {
	if len(d.file.Limits) == 0 {
		fault("limits", errors.New("required: how many calls the service allows, such as [{calls: 60, per: 1m}]"))
	}
	for _, l := range d.file.Limits {
		if l.Calls < 1 || l.Per < time.Second || l.Per > 31*24*time.Hour {
			fault("limits", fmt.Errorf("%d calls per %v: want at least one call, per 1s to 744h", l.Calls, l.Per))
		}
	}
}

// rule is an answer's rule, compiled.
type rule struct {
	answer
	number int // as people count
	when   program
}

func (d *Definition) parseRules(fault func(string, error)) {
	for i, a := range d.file.Answers {
		key := fmt.Sprintf("answers: rule %d", i+1)
		r := rule{answer: a, number: i + 1}
		var err error
		r.when, err = compile(a.When, symbolVariable, spelledVariable)
		fault(key+": when", err)
		if a.Status == 0 && a.When == "" {
			fault(key, errors.New("want a status, a condition, or both"))
		}
		if a.Status != 0 && (a.Status < 200 || a.Status > 599) {
			fault(key+": status", fmt.Errorf("%d is not within 200 and 599", a.Status))
		}
		if !slices.Contains(meanings, a.Means) {
			fault(key+": means", fmt.Errorf("there is no meaning %q; %s", a.Means, names.Hint(string(a.Means), meanings)))
		}
		if a.Status != 0 && a.Status/100 == 2 && a.Status != 200 {
			fault(key+": status", errors.New("only 200 is a success"))
		}
		d.rules = append(d.rules, r)
	}
}

// decode reads YAML strictly. What it says about a key that there is not has the line and
// the nearest key.
func decode(text []byte) (file, error) {
	if len(text) > MaxFile {
		return file{}, fmt.Errorf("larger than %d bytes", MaxFile)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	var f file
	switch err := decoder.Decode(&f); {
	case errors.Is(err, io.EOF):
		return file{}, errors.New("empty")
	case err != nil:
		return file{}, explain(err)
	}
	if err := decoder.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return file{}, errors.New("more than one YAML document")
	}
	return f, checkWhole(text)
}

var unknownKey = regexp.MustCompile(`^line (\d+): field (.+) not found in type declared\.(\w+)$`)

// wrongType is how the YAML package says that a value has another type.
var wrongType = regexp.MustCompile("(?s)^(line \\d+): cannot unmarshal !!(\\w+)(?: (`.*`))? into (.+)$")

// wanted says in words what a type of Go wants.
func wanted(goType string) string {
	switch {
	case goType == "time.Duration":
		return "a duration such as 1m"
	case goType == "int":
		return "a whole number"
	case goType == "bool":
		return "true or false"
	case goType == "string", strings.HasPrefix(goType, "schema."):
		return "text; quote it"
	case strings.HasPrefix(goType, "[]"):
		return "a list, as in [{…}]"
	}
	return "keys with values, as in {key: value}"
}

// checkWhole refuses calls such as 1.5, which the YAML package cuts.
func checkWhole(text []byte) error {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil || len(document.Content) == 0 {
		return nil // it was read before
	}
	limits, _ := member(document.Content[0], "limits")
	if limits == nil {
		return nil
	}
	for _, l := range limits.Content {
		if calls, line := member(l, "calls"); calls != nil && calls.Tag == "!!float" {
			return fmt.Errorf("line %d: limits: calls: %s: want a whole number", line, calls.Value)
		}
	}
	return nil
}

// explain names keys where the YAML package names types of Go.
func explain(err error) error {
	var typed *yaml.TypeError
	if !errors.As(err, &typed) {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	var errs []error
	for _, text := range typed.Errors {
		if found := unknownKey.FindStringSubmatch(text); found != nil {
			text = fmt.Sprintf("line %s: there is no key %q here; %s", found[1], found[2], names.Hint(found[2], keysOf(found[3])))
		}
		if found := wrongType.FindStringSubmatch(text); found != nil {
			text = strings.TrimSpace(found[1]+": "+found[3]) + ": want " + wanted(strings.TrimPrefix(found[4], "*"))
			text = strings.ReplaceAll(text, "::", ":")
		}
		errs = append(errs, errors.New(text))
	}
	return errors.Join(errs...)
}

// keysOf are the keys of a section.
func keysOf(section string) []string {
	var keys []string
	for _, t := range []reflect.Type{reflect.TypeFor[file](), reflect.TypeFor[limit](), reflect.TypeFor[answer](), reflect.TypeFor[read](), reflect.TypeFor[bar](), reflect.TypeFor[history](), reflect.TypeFor[begin](),
		reflect.TypeFor[stream](), reflect.TypeFor[login](), reflect.TypeFor[ping](), reflect.TypeFor[frameRule](), reflect.TypeFor[frameRead](), reflect.TypeFor[instrument]()} {
		if t.Name() == section {
			for i := range t.NumField() {
				keys = append(keys, t.Field(i).Tag.Get("yaml"))
			}
		}
	}
	return keys
}

// Name is the provider's name.
func (d *Definition) Name() schema.Provider { return d.file.Name }

// Version names the text: 32 hexadecimal digits of its SHA-256.
func (d *Definition) Version() string { return d.version }

// Text is what was parsed.
func (d *Definition) Text() string { return d.text }

// BaseURL is where the service lies, unless a setting says otherwise.
func (d *Definition) BaseURL() string { return d.file.BaseURL }

// Module is the provider for the program's lists.
func (d *Definition) Module() pipeline.ProviderModule {
	return pipeline.ProviderModule{Name: d.file.Name, Doc: d.file.Doc, Settings: d.defaults(), New: d.New}
}
