package simulated

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Kind is a way to misbehave.
type Kind string

// The ways to misbehave.
const (
	Fail     Kind = "fail"      // no answer: CodeUnavailable
	Hang     Kind = "hang"      // no answer until ctx is done: CodeTimeout
	Late     Kind = "late"      // a good answer, after Delay
	Unknown  Kind = "unknown"   // an answer that the symbol is unknown
	Garbage  Kind = "garbage"   // an answer that is neither JSON nor text
	Zero     Kind = "zero"      // an answer whose price is 0.00
	TooLarge Kind = "too_large" // no answer: CodeTooLarge
)

// Fault is how one symbol misbehaves.
type Fault struct {
	Kind Kind
	// Delay is waited before it, in addition to Config.Latency. Late needs
	// one, the others may have one; it must not be negative. Default: none.
	Delay time.Duration
}

func (f Fault) validate() error {
	switch f.Kind {
	case Fail, Hang, Late, Unknown, Garbage, Zero, TooLarge:
	default:
		return fmt.Errorf("kind %q is none of fail, hang, late, unknown, garbage, zero, too_large", f.Kind)
	}
	if f.Delay < 0 {
		return fmt.Errorf("delay %v is negative", f.Delay)
	}
	if f.Kind == Late && f.Delay == 0 {
		return errors.New("late needs a delay, as in late:200ms")
	}
	return nil
}

// answer misbehaves.
func (f Fault) answer(ctx context.Context, symbol schema.Symbol, now schema.Time) (schema.RawResponse, error) {
	switch f.Kind {
	case Fail:
		return nil, pipeline.Quotef(schema.CodeUnavailable, "told to fail")
	case Hang:
		<-ctx.Done()
		return nil, wait(ctx, 0)
	case Unknown:
		return encode(answer{Simulated: true, Provider: Name, Symbol: symbol, Error: unknownSymbol})
	case Garbage:
		return schema.RawResponse("<html>\x00\xff not a quote"), nil
	case Zero:
		price := "0.00"
		return encode(answer{Simulated: true, Provider: Name, Symbol: symbol, Price: &price, Time: &now})
	case TooLarge:
		return nil, pipeline.Quotef(schema.CodeTooLarge, "told to pass %d bytes", schema.MaxRawResponse)
	default:
		return nil, pipeline.Quotef(schema.CodeInternal, "no such fault: %s", f.Kind)
	}
}

// ParseFaults reads the text form of Config.Faults: symbol=kind or
// symbol=kind:delay, separated by commas, such as
//
//	FAIL=fail,HANG=hang,SLOW=late:200ms,NOPE=unknown
//
// Spaces around entries are ignored, an empty text holds none. It reports all
// faults of the text at once.
func ParseFaults(text string) (map[schema.Symbol]Fault, error) {
	faults := map[schema.Symbol]Fault{}
	if strings.TrimSpace(text) == "" {
		return faults, nil
	}
	var errs []error
	for entry := range strings.SplitSeq(text, ",") {
		entry = strings.TrimSpace(entry)
		symbol, fault, err := parseFault(entry)
		if _, twice := faults[symbol]; err == nil && twice {
			err = errors.New("a symbol has one fault")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", entry, err))
			continue
		}
		faults[symbol] = fault
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("reading faults: %w", err)
	}
	return faults, nil
}

func parseFault(entry string) (schema.Symbol, Fault, error) {
	// The last one: a symbol may hold an equals sign, as EURUSD=X does.
	at := strings.LastIndexByte(entry, '=')
	if at < 0 {
		return "", Fault{}, errors.New("want symbol=kind or symbol=kind:delay")
	}
	symbol, symbolErr := schema.ParseSymbol(entry[:at])
	kind, delay, delayed := strings.Cut(entry[at+1:], ":")
	fault := Fault{Kind: Kind(strings.TrimSpace(kind))}
	var delayErr error
	if delayed {
		fault.Delay, delayErr = time.ParseDuration(strings.TrimSpace(delay))
	}
	if delayErr == nil {
		delayErr = fault.validate()
	}
	return symbol, fault, errors.Join(symbolErr, delayErr)
}
