package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// childDir names the environment variable that makes the test binary a process
// with a broker in the directory it holds.
const childDir = "PRICEMILL_EMBEDDED_TEST_DIR"

// child appends numbers until it is killed and says of each that it is in the
// log, after the broker said so.
func child(dir string) int {
	err := func() error {
		ctx := context.Background()
		b, err := Open(ctx, Config{Dir: dir})
		if err != nil {
			return err
		}
		client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()))
		if err != nil {
			return err
		}
		if err := createTopic(ctx, client); err != nil {
			return err
		}
		for i := 0; ; i++ {
			if err := produce(ctx, client, i); err != nil {
				return err
			}
			if _, err := fmt.Println(i); err != nil {
				return err
			}
		}
	}()
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func TestAcknowledgedDataSurvivesKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), self)
	command.Env = append(os.Environ(), childDir+"="+dir)
	command.Stderr = os.Stderr
	said, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(said)
	acknowledged := 0
	for acknowledged < 200 && lines.Scan() {
		acknowledged++
	}
	if _, err := Open(t.Context(), Config{Dir: dir}); !errors.Is(err, ErrLocked) {
		t.Errorf("opening what another process has open: %v", err)
	}
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() { // what it said before it died
		acknowledged++
	}
	_ = command.Wait() // "signal: killed"
	if acknowledged < 200 {
		t.Fatalf("the child stopped after %d records", acknowledged)
	}

	// The record of the dead broker is still there, the lock is not.
	if _, err := Address(dir); err != nil {
		t.Errorf("the record of the killed broker: %v", err)
	}
	b := open4test(t, Config{Dir: dir})
	if address, err := Address(dir); err != nil || address != b.Addr() {
		t.Errorf("the address is %q: %v", address, err)
	}
	for i, value := range values(t, b.Addr(), acknowledged) {
		if value != fmt.Sprint(i) {
			t.Fatalf("record %d is %s", i, value)
		}
	}
}
