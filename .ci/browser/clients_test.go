package browser_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// clientBlocks are the blocks of a language under "Clients" and before it in docs/push.md,
// as clients of a service and of a symbol that has prices.
func clientBlocks(t *testing.T, s *service, language string) []string {
	t.Helper()
	text, err := os.ReadFile("../../docs/push.md")
	if err != nil {
		t.Fatal(err)
	}
	replace := strings.NewReplacer("http://127.0.0.1:8000", s.url, "ws://127.0.0.1:8000", strings.Replace(s.url, "http", "ws", 1),
		"AAPL,MSFT", "ACME,GLOBEX", "AAPL", "ACME")
	var blocks []string
	for _, found := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, replace.Replace(found[1]))
	}
	return blocks
}

// prints fails unless a program prints a line that matches within two minutes; then it is
// ended.
func prints(t *testing.T, command *exec.Cmd, pattern string) {
	t.Helper()
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaints strings.Builder
	command.Stderr = &complaints
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	timeout := time.AfterFunc(2*time.Minute, func() { _ = command.Process.Kill() })
	defer timeout.Stop()
	wanted, seen := regexp.MustCompile(pattern), ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if wanted.MatchString(lines.Text()) {
			_ = command.Process.Kill()
			_ = command.Wait() // killed
			return
		}
		seen += lines.Text() + "\n"
	}
	err = command.Wait()
	t.Errorf("%v ended (%v) without a line that matches %s:\n%s%s", command.Args, err, pattern, seen, &complaints)
}

// TestClients runs the clients of docs/push.md, each until it has printed a price.
func TestClients(t *testing.T) {
	s := startService(t)

	t.Run("curl", func(t *testing.T) {
		for _, block := range clientBlocks(t, s, "sh") {
			// exec, so that what is ended is curl.
			prints(t, exec.Command("sh", "-c", "exec "+block), `^event: price$`)
		}
	})

	t.Run("Go", func(t *testing.T) {
		dir := t.TempDir()
		for _, block := range clientBlocks(t, s, "go") {
			program := "package main\nimport (\"bufio\"; \"fmt\"; \"net/http\"; \"os\"; \"strings\")\n" +
				"func stream(last string) error {\n" + block + "\nreturn nil\n}\nfunc main() { if err := stream(\"\"); err != nil { fmt.Fprintln(os.Stderr, err); os.Exit(1) } }\n"
			source, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "client")
			if err := os.WriteFile(source, []byte(program), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("go", "build", "-o", binary, source).CombinedOutput(); err != nil {
				t.Fatalf("building: %v\n%s", err, out)
			}
			prints(t, exec.Command(binary), `^\{"symbol":"ACME","provider":"simulated","price":[\d.]+,"timestamp"`)
		}
	})

	t.Run("Python", func(t *testing.T) {
		python := os.Getenv("PRICEMILL_TEST_PYTHON")
		if python == "" {
			t.Fatal("PRICEMILL_TEST_PYTHON names no Python with the packages of requirements.txt: run make test-browser")
		}
		blocks := clientBlocks(t, s, "python")
		if len(blocks) != 2 {
			t.Fatalf("%d blocks of Python", len(blocks))
		}
		prints(t, exec.Command(python, "-u", "-c", "import httpx\nfrom httpx_sse import connect_sse\n"+blocks[0]), `^price \S+ \{'symbol': 'ACME'`)
		prints(t, exec.Command(python, "-u", "-c", "import asyncio, json, websockets\nasync def main():\n    "+
			strings.ReplaceAll(strings.TrimSpace(blocks[1]), "\n", "\n    ")+"\nasyncio.run(main())\n"), `^\{'event': 'price', .*'symbol': 'ACME'`)
	})

	t.Run("browser", func(t *testing.T) {
		p := openTab(t, newBrowser(t), s, 1280, "light", true)
		p.open(s.url + "/dashboard/jobs")
		for _, block := range clientBlocks(t, s, "js") {
			p.run(chromedp.Evaluate("console.log = (price) => { window.seen = price.symbol; };"+block+";undefined", nil))
			s.eventually("a price is logged", func() bool { return value[string](p, `window.seen ?? ""`) == "ACME" })
		}
		p.check("browser")
	})
}
