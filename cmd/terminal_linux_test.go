package cmd_test

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// openTerminal is a pseudo-terminal of Linux: what is written to slave is read from
// master.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = master.Close() }) // it was read to its end
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	return master, slave
}

// screen is what a terminal shows after what was written to it: as much of its codes as
// the program uses.
func screen(text string) []string {
	var lines []string
	at := 0
	put := func(s string) {
		for len(lines) <= at {
			lines = append(lines, "")
		}
		lines[at] += s
	}
	code := regexp.MustCompile(`^\x1b\[([0-9]*)([A-Za-z])`)
	for len(text) > 0 {
		if m := code.FindStringSubmatch(text); m != nil {
			switch m[2] {
			case "A":
				n := 0
				_, _ = fmt.Sscan(m[1], &n)
				at -= n
			case "K":
				put("")
				lines[at] = ""
			case "J":
				lines = lines[:min(at, len(lines))]
			case "m":
				put(m[0])
			}
			text = text[len(m[0]):]
			continue
		}
		switch text[0] {
		case '\n':
			put("")
			at++
		case '\r':
		default:
			put(text[:1])
		}
		text = text[1:]
	}
	return lines
}

// On a terminal a watch is a table that is drawn over itself.
func TestWatchOnATerminal(t *testing.T) {
	t.Parallel()
	snapshot := func(symbol, price string) string {
		return "event: snapshot\nid: s" + symbol + "\ndata: {\"symbol\":\"" + symbol + "\",\"simulated\":true,\"price\":" + price + ",\"average\":null}\n\n"
	}
	p := newPushing(t, "retry: 1\n\n"+snapshot("AAA", "null")+snapshot("BBBBBB", "null")+pricedAt("p1", "100", "00")+
		"event: average\nid: a1\ndata: {\"symbol\":\"AAA\",\"window_size\":5,\"value\":100.333333333333333333}\n\n",
		pricedAt("p2", "101.25", "01")+": wait\n")
	master, slave := openTerminal(t)
	process := command(t, nil, "watch", "AAA", "BBBBBB", "--url", p.URL)
	process.Stdout = slave
	var stderr bytes.Buffer
	process.Stderr = &stderr
	require.NoError(t, process.Start())
	t.Cleanup(func() { _ = process.Process.Kill() }) // it may have ended
	require.NoError(t, slave.Close())
	shown := output{newLogs()}
	read := make(chan struct{})
	go func() {
		defer close(read)
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer)
			_, _ = shown.Write(buffer[:n]) // never fails
			if err != nil {
				return // the program has closed its end
			}
		}
	}()
	shown.await(t, `\n(?s:.*)\x1b\[4A(?s:.*)101\.25(?s:.*)connected again`)
	require.NoError(t, process.Process.Signal(os.Interrupt))
	assert.NoError(t, process.Wait(), "Ctrl-C is status 0: %s", &stderr)
	<-read
	assert.Empty(t, stderr.String(), "it would be drawn into the table")
	lines := screen(shown.String())
	require.Len(t, lines, 4, "%q", lines)
	assert.Regexp(t, `^SYMBOL +PRICE +CHANGE +AVERAGE +AGE$`, lines[0])
	assert.Regexp(t, `^\x1b\[32mAAA +101\.25 +\+1\.25 +\+1\.25 % +100\.3333 +[0-9]+ d\x1b\[0m$`, lines[1])
	assert.Regexp(t, `^BBBBBB +- +- +- +-$`, lines[2])
	assert.Regexp(t, `^simulated prices; \d\d:\d\d:\d\d UTC: connected again$`, lines[3])
	for _, line := range lines {
		assert.LessOrEqual(t, len(regexp.MustCompile(`\x1b\[\d+m`).ReplaceAllString(line, "")), 100, line)
	}
}
