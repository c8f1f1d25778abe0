package deployment

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	unitFile = ".ci/release/pricemill.service"
	// exposure is the most that `systemd-analyze security` may give the unit, in tenths.
	exposure = "12"
)

// dropIn is the one that docs/install.md shows.
func dropIn(t *testing.T) string {
	t.Helper()
	found := regexp.MustCompile("(?s)```ini\n(.*?)```").FindStringSubmatch(read(t, "docs/install.md"))
	if found == nil {
		t.Fatal("docs/install.md shows no drop-in")
	}
	return found[1]
}

// analyze runs systemd-analyze on a unit with a drop-in, in a folder of their own. Where a
// unit is to be verified, its program must be there.
func analyze(t *testing.T, unit, dropIn string, arguments ...string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "pricemill")
	write(t, program, "#!/bin/sh\n")
	if err := os.Chmod(program, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "pricemill.service")
	write(t, path, strings.Replace(unit, "/usr/bin/pricemill", program, 1))
	if err := os.Mkdir(path+".d", 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(path+".d", "secrets.conf"), dropIn)
	output, err := exec.CommandContext(t.Context(), "systemd-analyze", append(arguments, path)...).CombinedOutput()
	return string(output), err
}

func verify(t *testing.T, unit, dropIn string) bool {
	t.Helper()
	output, err := analyze(t, unit, dropIn, "verify", "--man=no")
	t.Log(output)
	return err == nil && output == "" // a key that is not known is a warning
}

func secure(t *testing.T, unit string) bool {
	t.Helper()
	output, err := analyze(t, unit, dropIn(t), "security", "--offline=yes", "--no-pager", "--threshold="+exposure)
	lines := strings.Split(strings.TrimSpace(output), "\n")
	t.Log(lines[len(lines)-1])
	return err == nil
}

// TestUnit: systemd reads the unit and the drop-in of the document without a warning, and
// rates it well.
func TestUnit(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	unit, secrets := read(t, unitFile), dropIn(t)
	if !verify(t, unit, secrets) {
		t.Error("systemd-analyze verify complains")
	}
	if !secure(t, unit) {
		t.Errorf("systemd-analyze security gives more than %s tenths", exposure)
	}
	for _, test := range []struct{ old, new string }{
		{"NoNewPrivileges=", "NoNewPrivilege="}, {"Restart=on-failure", "Restart=often"}, {"[Install]", "[Instal]"},
		{"ExecStart=/usr/bin/pricemill", "ExecStart=/usr/bin/pricemil"},
	} {
		if !strings.Contains(unit, test.old) || verify(t, strings.Replace(unit, test.old, test.new, 1), secrets) {
			t.Errorf("nothing notices %s", test.new)
		}
	}
	if verify(t, unit, strings.Replace(secrets, "LoadCredential", "LoadCredentials", 1)) {
		t.Error("nothing notices a wrong drop-in")
	}
	if secure(t, strings.Replace(unit, "DynamicUser=yes", "DynamicUser=no", 1)) {
		t.Error("nothing notices a service of root")
	}
}
