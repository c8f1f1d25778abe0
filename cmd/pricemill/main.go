// Command pricemill is a market data service; see the README.
package main

import (
	"context"
	"os"

	"github.com/pricemill/pricemill/cmd"
	_ "github.com/pricemill/pricemill/cmd/standard"
)

func main() {
	os.Exit(cmd.Main(context.Background(), os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
}
