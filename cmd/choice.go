package cmd

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pricemill/pricemill/schema/names"
)

// flagError is the error of usage for a flag that there is not, or for its value.
func flagError(c *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var invalid *pflag.InvalidValueError
	var why string
	switch {
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() == "":
		var known []string
		c.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, "--"+f.Name) })
		name := "--" + unknown.GetSpecifiedName()
		return fmt.Errorf("%w: unknown flag %s; %ssee %q", errUsage, name, didYouMean(names.Meant(name, known)), c.CommandPath()+" --help")
	case errors.As(err, &invalid):
		switch invalid.GetFlag().Value.Type() {
		case "int", "int32":
			why = "a whole number"
		case "intSlice":
			why = "whole numbers, separated by commas"
		case "duration":
			why = "a duration such as 5s, 1m30s or 2h"
		}
	}
	if why != "" {
		return fmt.Errorf("%w: --%s: %q is not %s", errUsage, invalid.GetFlag().Name, invalid.GetValue(), why)
	}
	return fmt.Errorf("%w: %w", errUsage, err)
}

// didYouMean is the begin of a sentence where there is a name that may be meant.
func didYouMean(name string) string {
	if name == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %q? ", name)
}

// choice is a flag that takes one of a few words, the first of which is the default.
type choice struct {
	value *string
	known []string
}

// choiceFlag gives a command such a flag. Its usage lists the words, after a text.
func choiceFlag(c *cobra.Command, value *string, name, shorthand string, known []string, text string) {
	*value = known[0]
	last := len(known) - 1
	c.Flags().VarP(choice{value, known}, name, shorthand, text+strings.Join(known[:last], ", ")+" or "+known[last])
}

// Set implements pflag.Value.
func (o choice) Set(text string) error {
	if !slices.Contains(o.known, text) {
		return fmt.Errorf("no such value; %s", names.Hint(text, o.known))
	}
	*o.value = text
	return nil
}

// String implements pflag.Value.
func (o choice) String() string {
	if o.value == nil { // pflag asks a zero value too
		return ""
	}
	return *o.value
}

// Type implements pflag.Value.
func (o choice) Type() string { return "string" }
