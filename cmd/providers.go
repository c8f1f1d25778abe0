package cmd

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
)

func newProviders(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "providers",
		Short:   "List providers and the state of each",
		Example: "  pricemill providers",
		Args:    exactArgs(0),
	}
	cl := newClient(a, c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		type list struct {
			Items []struct {
				Name, Description   string
				Default, Configured bool
				Capabilities        []string
				Status              *struct {
					CallsLeft *int `json:"calls_left"`
					Breaker   string
				}
			}
		}
		return show(c.Context(), cl, http.MethodGet, "/providers", nil, nil, func(w io.Writer, all list) {
			fmt.Fprintln(w, "PROVIDER\tDEFAULT\tCONFIGURED\tGIVES\tCALLS LEFT\tBREAKER\tDESCRIPTION")
			for _, p := range all.Items {
				left, breaker, gives := "-", "-", "-"
				if p.Status != nil {
					breaker = p.Status.Breaker
					if p.Status.CallsLeft != nil {
						left = fmt.Sprint(*p.Status.CallsLeft)
					}
				}
				if len(p.Capabilities) > 0 {
					gives = strings.Join(p.Capabilities, ",")
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Name, cell(p.Default), cell(p.Configured), gives, left, breaker, p.Description)
			}
		})
	}
	return c
}
