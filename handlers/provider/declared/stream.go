package declared

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pricemill/pricemill/handlers/remote"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/names"
)

// stream is the section of a definition that declares a WebSocket feed.
type stream struct {
	URL       string            `yaml:"url"`
	Headers   map[string]string `yaml:"headers"`
	Login     *login            `yaml:"login"`
	Symbol    string            `yaml:"symbol"`
	Subscribe yaml.Node         `yaml:"subscribe"`
	// Unsubscribe is empty where a connection keeps its symbols.
	Unsubscribe yaml.Node   `yaml:"unsubscribe"`
	Most        *int        `yaml:"most_symbols"`
	Ping        *ping       `yaml:"ping"`
	Split       string      `yaml:"split"`
	Frames      []frameRule `yaml:"frames"`
	Read        frameRead   `yaml:"read"`
}

// login is what is sent before anything else, and the frame to await.
type login struct {
	Send  yaml.Node `yaml:"send"`
	Until string    `yaml:"until"`
}

type ping struct {
	Send  yaml.Node     `yaml:"send"`
	Every time.Duration `yaml:"every"`
}

// frameRule is a rule that says what a frame means.
type frameRule struct {
	When   string  `yaml:"when"`
	Means  meaning `yaml:"means"`
	Symbol string  `yaml:"symbol"`
	// Resubscribe says that the service has refused all symbols for this one.
	Resubscribe bool `yaml:"resubscribe"`
}

// meaning is what a frame means: a trade, a sign of life, or the code of an error.
type meaning string

const (
	meansTrade   meaning = "trade"
	meansAlive   meaning = "alive"
	meansUnknown         = meaning(schema.CodeUnknownSymbol)
)

var frameMeanings = []meaning{meansTrade, meansAlive, meansUnknown, meaning(schema.CodeRateLimited),
	meaning(schema.CodeUnauthorized), meaning(schema.CodeUnavailable), meaning(schema.CodeBadResponse)}

// frameRead says where in a frame the trade is. All but Signed, Unit and Gapless are jq.
type frameRead struct {
	Entry    string `yaml:"entry"`
	Symbol   string `yaml:"symbol"`
	Price    string `yaml:"price"`
	Signed   bool   `yaml:"signed"`
	Time     string `yaml:"time"`
	Unit     string `yaml:"unit"`
	Size     string `yaml:"size"`
	ID       texts  `yaml:"id"`
	Sequence string `yaml:"sequence"`
	Gapless  bool   `yaml:"gapless"`
}

// texts are one text or a list of them.
type texts []string

// UnmarshalYAML implements yaml.Unmarshaler.
func (t *texts) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*t = texts{n.Value}
		return nil
	}
	return n.Decode((*[]string)(t))
}

// Bounds of the interval of pings.
const minPing, maxPing = time.Second, 10 * time.Minute

// maxRules bounds the rules of frames, and maxIDs the parts of an id.
const maxRules, maxIDs = 50, 8

// streaming is the compiled form of a stream. It is immutable.
type streaming struct {
	stream
	base      string // URL without what holds the key
	request   request
	headers   map[string]template
	login     message
	until     program
	subscribe message
	leave     message
	ping      message
	symbol    program // nil code: the definition's
	split     []string
	splits    bool
	rules     []compiledFrameRule
	entry, symbolOf, price, time,
	size, sequence program
	id []program
}

type compiledFrameRule struct {
	frameRule
	number         int // as people count
	when, symbolOf program
}

// parseStream compiles the section, if there is one. Faults are named below "stream: ".
func (d *Definition) parseStream(fault func(string, error)) {
	if d.file.Stream == nil {
		return
	}
	s := &streaming{stream: *d.file.Stream}
	d.stream = s
	within := func(key string, err error) { fault("stream: "+key, err) }
	var err error
	s.base, s.request, err = parseFeedURL(s.URL)
	within("url", err)
	s.headers = parseHeaders(s.Headers, within)
	s.symbol, err = compile(s.Symbol, symbolVariable)
	within("symbol", err)
	s.parseMessages(within)
	s.parseRules(within)
	s.split, s.splits, err = parsePath(s.Split)
	within("split", err)
	s.parseRead(within)
	if s.Most != nil && (*s.Most < 1 || *s.Most > schema.MaxStreamSymbols) {
		within("most_symbols", fmt.Errorf("%d is not within 1 and %d", *s.Most, schema.MaxStreamSymbols))
	}
}

// parseFeedURL takes a URL apart: the base, which a setting may replace, and below it what
// has places for the key.
func parseFeedURL(text string) (base string, r request, err error) {
	path, query, hasQuery := strings.Cut(text, "?")
	below := ""
	if i := strings.Index(path, "{"); i >= 0 {
		slash := strings.LastIndex(path[:i], "/")
		path, below = path[:max(slash, 0)], path[max(slash, 0):]
	}
	if hasQuery {
		below += "?" + query
	}
	if _, err := remote.ParseFeedURL(path); err != nil {
		return "", r, err
	}
	r, err = parseBelow(below, keyPlaces...)
	return path, r, err
}

func (s *streaming) parseMessages(fault func(string, error)) {
	var err error
	s.subscribe, err = parseMessage(s.Subscribe, append([]string{symbolPlace}, keyPlaces...)...)
	if err == nil && !s.subscribe.isPerSymbol() && (s.subscribe.root == nil || !s.subscribe.root.repeats()) {
		err = errors.New("want {symbol} in it")
	}
	fault("subscribe", err)
	s.leave, err = parseMessage(s.Unsubscribe, append([]string{symbolPlace}, keyPlaces...)...)
	if err == nil && s.leave.root != nil && !s.leave.isPerSymbol() && !s.leave.root.repeats() {
		err = errors.New("want {symbol} in it")
	}
	fault("unsubscribe", err)
	if s.Login != nil {
		s.login, err = parseMessage(s.Login.Send, keyPlaces...)
		if err == nil && s.login.root == nil {
			err = errors.New("required")
		}
		fault("login: send", err)
		s.until, err = compile(s.Login.Until)
		fault("login: until", err)
	}
	if s.Ping != nil {
		s.ping, err = parseMessage(s.Ping.Send)
		fault("ping: send", err)
		if s.Ping.Every < minPing || s.Ping.Every > maxPing {
			fault("ping: every", fmt.Errorf("%v is not within %v and %v", s.Ping.Every, minPing, maxPing))
		}
	}
}

func (s *streaming) parseRules(fault func(string, error)) {
	if !slices.ContainsFunc(s.Frames, func(r frameRule) bool { return r.Means == meansTrade }) {
		fault("frames", errors.New(`required: a rule for trades, such as {when: .type == "trade", means: trade}`))
	}
	if len(s.Frames) > maxRules {
		fault("frames", fmt.Errorf("%d rules, more than %d", len(s.Frames), maxRules))
	}
	for i, r := range s.Frames {
		key := fmt.Sprintf("frames: rule %d", i+1)
		compiled := compiledFrameRule{frameRule: r, number: i + 1}
		var err error
		if compiled.when, err = compile(r.When); err == nil && r.When == "" {
			err = errors.New("required: a condition in jq")
		}
		fault(key+": when", err)
		if !slices.Contains(frameMeanings, r.Means) {
			fault(key+": means", fmt.Errorf("there is no meaning %q; %s", r.Means, names.Hint(string(r.Means), frameMeanings)))
		}
		compiled.symbolOf, err = compile(r.Symbol)
		fault(key+": symbol", err)
		if (r.Symbol != "" || r.Resubscribe) && r.Means != meansUnknown {
			fault(key, fmt.Errorf("only a rule that means %s has symbol or resubscribe", meansUnknown))
		}
		if r.Resubscribe && r.Symbol == "" {
			fault(key, errors.New("resubscribe without symbol: which one is to be left out?"))
		}
		s.rules = append(s.rules, compiled)
	}
}

var pathPattern = regexp.MustCompile(`^\.$|^(\.[A-Za-z_][A-Za-z0-9_]*)+$`)

// parsePath reads the place of a list, such as ".data.trades", or "." for the frame itself.
func parsePath(text string) (steps []string, given bool, err error) {
	switch {
	case text == "":
		return nil, false, nil
	case !pathPattern.MatchString(text):
		return nil, false, errors.New("want the path of a list, such as .data, or . for the frame itself")
	case text == ".":
		return nil, true, nil
	}
	return strings.Split(text[1:], "."), true, nil
}

// choosing finds programs that choose an entry of a list, as .data[0] and first(.data[]) do.
var choosing = regexp.MustCompile(`\[-?[0-9]*[:\]]|(^|[^.\w])(first|last)\b`)

func (s *streaming) parseRead(fault func(string, error)) {
	r := s.Read
	for _, p := range []struct {
		key, text string
		into      *program
		required  bool
	}{
		{"entry", r.Entry, &s.entry, false}, {"symbol", r.Symbol, &s.symbolOf, true}, {"price", r.Price, &s.price, true},
		{"time", r.Time, &s.time, true}, {"size", r.Size, &s.size, false}, {"sequence", r.Sequence, &s.sequence, false},
	} {
		var err error
		if *p.into, err = compile(p.text); err == nil && p.text == "" && p.required {
			err = fmt.Errorf("required: a jq program, such as .%s", p.key)
		}
		if err == nil && !s.splits && choosing.MatchString(p.text) {
			err = errors.New("chooses one entry of several, and the others would be lost: want split")
		}
		fault("read: "+p.key, err)
	}
	if len(r.ID) == 0 || len(r.ID) > maxIDs {
		fault("read: id", fmt.Errorf("required: 1 to %d jq programs that together name a trade of the symbol, such as .id", maxIDs))
	}
	for _, text := range r.ID {
		p, err := compile(text)
		if err == nil && text == "" {
			err = errors.New("an empty program")
		}
		fault("read: id", err)
		s.id = append(s.id, p)
	}
	if !slices.Contains(units, r.Unit) {
		fault("read: unit", fmt.Errorf("there is no unit %q of a time; %s", r.Unit, names.Hint(r.Unit, units)))
	}
	if r.Gapless && r.Sequence == "" && len(r.ID) > 1 {
		fault("read: gapless", errors.New("want sequence: an id of several parts does not count"))
	}
}

// keyed are all templates that may hold the key.
func (s *streaming) keyed() []template {
	all := slices.Concat(s.request.path, slices.Collect(maps.Values(s.request.query)), slices.Collect(maps.Values(s.headers)))
	return slices.Concat(all, s.login.templates(), s.subscribe.templates(), s.leave.templates())
}

// needsKey says that the feed wants a key.
func (s *streaming) needsKey() bool { return slices.ContainsFunc(s.keyed(), template.hasKey) }

// most is how many symbols a connection may have.
func (s *streaming) most() int {
	if s.Most == nil {
		return schema.MaxStreamSymbols
	}
	return *s.Most
}

// address is the URL below base with the values of places.
func (s *streaming) address(base string, values map[string]string) string {
	query, path := s.request.fill(values)
	address := strings.TrimRight(base, "/")
	for _, step := range path {
		address += "/" + url.PathEscape(step)
	}
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	return address
}

// spellFor is a symbol as the feed writes it.
func (d *Definition) spellFor(symbol schema.Symbol) (string, error) {
	if d.stream.symbol.code == nil {
		return d.spell(symbol)
	}
	return spellBy(d.stream.symbol, symbol)
}
