package cmd

import (
	"archive/zip"
	"bufio"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/schollz/progressbar/v3"

	"github.com/pricemill/pricemill/handlers/provider/csv"
)

// openFile opens the file, looks whether it is compressed, and shows on a
// terminal how far it was read.
func (a *app) openFile(i ingestion) (io.Reader, func() error, error) {
	file, size, closeFile := i.stdin, int64(-1), func() error { return nil }
	if i.file != "-" {
		f, err := os.Open(i.file)
		if err != nil {
			return nil, nil, fmt.Errorf("opening the file: %w", err)
		}
		file, closeFile = f, f.Close
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			size = info.Size()
		}
	}
	if isTerminal(a.stderr) {
		bar := progressbar.NewOptions64(size, progressbar.OptionSetWriter(a.stderr), progressbar.OptionShowBytes(true),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
		read := progressbar.NewReader(file, bar)
		file = &read
		closeRest := closeFile
		closeFile = func() error { return errors.Join(bar.Exit(), bar.Clear(), closeRest()) }
	}
	plain, closePlain, err := decompress(file)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("reading %s: %w", i.file, err), closeFile())
	}
	return plain, func() error { return errors.Join(closePlain(), closeFile()) }, nil
}

// How compressed files begin.
const (
	gzipMagic  = "\x1f\x8b"
	zipMagic   = "PK\x03\x04"
	zstdMagic  = "\x28\xb5\x2f\xfd"
	bzip2Magic = "BZh"
)

// decompress finds out by its content how a file is compressed.
func decompress(file io.Reader) (io.Reader, func() error, error) {
	buffered := bufio.NewReader(file)
	magic, _ := buffered.Peek(4) // its error comes again
	nothing := func() error { return nil }
	switch begins := func(with string) bool { return strings.HasPrefix(string(magic), with) }; {
	case begins(gzipMagic):
		unzipped, err := gzip.NewReader(buffered)
		return unzipped, nothing, err
	case begins(zstdMagic):
		decoder, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, nil, err
		}
		return decoder, func() error { decoder.Close(); return nil }, nil
	case begins(bzip2Magic):
		return bzip2.NewReader(buffered), nothing, nil
	case begins(zipMagic):
		return unzip(buffered)
	}
	return buffered, nothing, nil
}

// unzip reads the only file of a zip archive. The list of an archive comes at its end,
// so it goes through a file of our own, from a pipe or not.
func unzip(archive io.Reader) (_ io.Reader, _ func() error, err error) {
	temporary, size, remove, err := csv.Spool(archive)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, remove())
		}
	}()
	list, err := zip.NewReader(temporary, size)
	if err != nil {
		return nil, nil, err
	}
	var files []*zip.File
	var names []string
	for _, f := range list.File {
		if !f.FileInfo().IsDir() && !strings.HasPrefix(f.Name, "__MACOSX/") {
			files, names = append(files, f), append(names, f.Name)
		}
	}
	if len(files) != 1 {
		return nil, nil, fmt.Errorf("the archive holds %d files, %.300q: unpack it and ingest each that you want", len(files), names)
	}
	if files[0].Flags&1 != 0 {
		return nil, nil, fmt.Errorf("%s is encrypted", files[0].Name)
	}
	content, err := files[0].Open()
	if err != nil {
		return nil, nil, err
	}
	return content, func() error { return errors.Join(content.Close(), remove()) }, nil
}
