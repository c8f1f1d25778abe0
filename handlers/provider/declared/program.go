package declared

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strconv"

	"github.com/itchyny/gojq"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Variables of programs.
const (
	symbolVariable  = "$symbol"  // as clients name it
	spelledVariable = "$spelled" // as the service does
)

// program is a jq program.
type program struct {
	text string
	code *gojq.Code // nil for none
}

// maxSteps is how many instructions a program may take. Steps rather than time: what is
// read from an answer must not depend on how busy the machine is.
const maxSteps = 1_000_000

// maxText is the longest text that a program may give, in bytes.
const maxText = 1000

// impure are functions that give something else at another time or on another machine, or
// that end the program.
var impure = []string{"now", "localtime", "strflocaltime", "input", "inputs", "debug", "stderr", "env", "$ENV", "halt", "halt_error", "input_filename", "input_line_number"}

// compile compiles a program; none if the text is empty.
func compile(text string, variables ...string) (program, error) {
	if text == "" {
		return program{}, nil
	}
	if len(text) > maxProgram {
		return program{}, fmt.Errorf("a program of %d bytes, more than %d", len(text), maxProgram)
	}
	query, err := gojq.Parse(text)
	if err != nil {
		return program{}, fmt.Errorf("jq %q: %w", text, err)
	}
	if err := checkQuery(query); err != nil {
		return program{}, fmt.Errorf("jq %q: %w", text, err)
	}
	code, err := gojq.Compile(query, gojq.WithVariables(variables), gojq.WithFunction(replaceAll, 2, 2, replaceAllIn))
	if err != nil {
		return program{}, fmt.Errorf("jq %q: %w", text, err)
	}
	return program{text, code}, nil
}

var (
	errNoValue = errors.New("gives no value")
	errSteps   = fmt.Errorf("takes more than %d steps", maxSteps)
)

// steps is a context that is done after so many looks at it: the interpreter looks once an
// instruction.
type steps struct {
	context.Context
	left int
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (s *steps) Done() <-chan struct{} {
	if s.left--; s.left < 0 {
		return closed
	}
	return nil
}

func (s *steps) Err() error {
	if s.left < 0 {
		return errSteps
	}
	return nil
}

// run gives the one value of the program.
func (p program) run(input any, variables ...any) (any, error) {
	values := p.code.RunWithContext(&steps{context.Background(), maxSteps}, input, variables...)
	value, some := values.Next()
	if !some {
		return nil, errNoValue
	}
	if err, failed := value.(error); failed {
		return nil, jqError(err)
	}
	if more, some := values.Next(); some {
		if err, failed := more.(error); failed {
			return nil, jqError(err)
		}
		return nil, errors.New("gives several values: choose one, as in first(…)")
	}
	return value, nil
}

// jqError is an error of a program. The interpreter quotes values of the answer: they are
// bounded.
func jqError(err error) error {
	if errors.Is(err, errSteps) {
		return errSteps
	}
	return errors.New(schema.CutReason(err.Error()))
}

// holds says whether a condition is true. A program that fails, since the answer has
// another form than it expects, is false.
func (p program) holds(input any, variables ...any) bool {
	value, err := p.run(input, variables...)
	return err == nil && value == true
}

// textOf is a string, or a number to its last digit.
func textOf(value any) (string, error) {
	text := ""
	switch v := value.(type) {
	case nil:
		return "", errNoValue
	case string:
		text = v
	case json.Number:
		text = v.String()
	case int:
		text = strconv.Itoa(v)
	case *big.Int:
		text = v.String()
	case float64:
		return "", errors.New("a number that jq computed, so not exact: give the number or text of the answer as it is")
	default:
		return "", fmt.Errorf("its value is of type %s, not a number or a text", gojq.TypeOf(value))
	}
	if len(text) > maxText {
		return "", fmt.Errorf("gives a text of %d bytes, more than %d", len(text), maxText)
	}
	return text, nil
}

// decodeAnswer reads JSON and keeps numbers as they are written. The error has
// CodeBadResponse.
func decodeAnswer(raw schema.RawResponse) (any, error) {
	if len(raw) > schema.MaxRawResponse {
		return nil, pipeline.Quotef(schema.CodeBadResponse, "%d bytes, more than %d", len(raw), schema.MaxRawResponse)
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, &pipeline.QuoteError{Code: schema.CodeBadResponse, Reason: "the answer is not JSON", Err: err}
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, pipeline.Quotef(schema.CodeBadResponse, "the answer does not end after its JSON")
	}
	return value, nil
}
