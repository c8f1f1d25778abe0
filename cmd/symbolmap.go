package cmd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pricemill/pricemill/httpapi/symbolmap"
)

// symbolMapName is the name of the symbol map in the data directory.
const symbolMapName = "symbols.yaml"

// readSymbolMap reads the symbol map; nil where there is none.
func readSymbolMap(c config) (*symbolmap.Map, error) {
	path := c.SymbolMapFile
	if path == "" {
		path = filepath.Join(c.DataDir, symbolMapName)
	}
	data, err := readAtMost(path, symbolmap.MaxFile+1)
	if errors.Is(err, fs.ErrNotExist) && c.SymbolMapFile == "" {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: reading the symbol map, SYMBOL_MAP_FILE: %w", errUsage, err)
	}
	read, err := symbolmap.Read(data, symbolmap.Providers{Known: c.Providers.names(), Aliases: c.Providers.aliases(), Simulated: c.Providers.simulated(),
		CaseSensitive: c.Providers.caseSensitive()})
	if err != nil {
		return nil, fmt.Errorf("%w: the symbol map %s: %w", errUsage, path, err)
	}
	return read, nil
}

// readAtMost reads the beginning of a file.
func readAtMost(path string, most int64) (data []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(io.LimitReader(f, most))
}
