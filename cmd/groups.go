package cmd

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/schema/names"
)

// strictGroups makes every command of the tree refuse a subcommand that it does not
// have. Cobra answers "poll lst" with the help of poll and status 0, which a script
// takes for success.
func strictGroups(root *cobra.Command) {
	// Cobra adds these two only when it executes, which is too late to see them here.
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Args = helpArgs
		case "completion":
			for _, shell := range c.Commands() {
				shell.Args = usageArgs(shell.Args)
				shell.Long = narrow.Replace(shell.Long)
			}
		}
	}
	needSubcommand(root)
}

// narrow has cobra's own help fit helpColumns.
var narrow = strings.NewReplacer("you can install it via your OS's package manager", "your package manager has it",
	"\t", "  ", "$(brew --prefix)/share/zsh/site-functions/_", "\\\n    $(brew --prefix)/share/zsh/site-functions/_")

// needSubcommand makes the groups at and below c require one of their subcommands.
// Commands with an action of their own check their arguments themselves.
func needSubcommand(c *cobra.Command) {
	if c.HasSubCommands() && !c.Runnable() {
		c.Args = func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownSubcommand(c, args[0])
			}
			return nil
		}
		c.RunE = func(c *cobra.Command, _ []string) error {
			c.PrintErrln(c.UsageString())
			return fmt.Errorf("%w: %q needs a command", errUsage, c.CommandPath())
		}
	}
	for _, child := range c.Commands() {
		needSubcommand(child)
	}
}

// helpArgs checks the path of a command that help is asked about.
func helpArgs(help *cobra.Command, path []string) error {
	at := help.Root()
	for _, name := range path {
		next := subcommand(at, name)
		if next == nil {
			return unknownSubcommand(at, name)
		}
		at = next
	}
	return nil
}

func subcommand(c *cobra.Command, name string) *cobra.Command {
	for _, child := range c.Commands() {
		if child.Name() == name || child.HasAlias(name) {
			return child
		}
	}
	return nil
}

// unknownSubcommand is the error of usage for a word that is neither a subcommand of
// c nor one of the others that may be in its place.
func unknownSubcommand(c *cobra.Command, word string, others ...string) error {
	known := others
	for _, child := range c.Commands() {
		if child.IsAvailableCommand() || child.Name() == "help" {
			known = append(known, child.Name())
		}
	}
	if len(known) == 0 {
		return fmt.Errorf("%w: %q has no subcommands, so no %q", errUsage, c.CommandPath(), word)
	}
	return fmt.Errorf("%w: unknown command %q of %q; %ssee %q",
		errUsage, word, c.CommandPath(), didYouMean(names.Meant(word, known)), c.CommandPath()+" --help")
}
