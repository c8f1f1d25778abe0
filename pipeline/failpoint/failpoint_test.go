//go:build failpoints

package failpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// asVictim makes this test binary a process that hits a point five times and says
// so.
const asVictim = "PRICEMILL_TEST_AS_VICTIM"

func TestMain(m *testing.M) {
	if os.Getenv(asVictim) != "" {
		for i := range 5 {
			err := Hit(context.Background(), RelayAcked)
			fmt.Println(i+1, errors.Is(err, ErrInjected))
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestFailpointHits(t *testing.T) {
	for text, want := range map[string][]int{"": {1, 2, 3, 4, 5, 6, 7}, "@3": {3}, "@2/1": {2, 3, 4, 5, 6, 7}, "@2/3": {2, 5}} {
		on := Hits{}
		if _, hits, counted := strings.Cut(text, "@"); counted {
			var err error
			on, err = parseHits(hits)
			require.NoError(t, err)
		}
		var got []int
		disarm, err := Arm(StageApplied, on, func(_ context.Context, hit int) error {
			got = append(got, hit)
			return nil
		})
		require.NoError(t, err)
		_, err = Arm(StageApplied, on, nil)
		require.ErrorContains(t, err, "armed already")
		for range 7 {
			require.NoError(t, Hit(t.Context(), StageApplied))
			require.NoError(t, Hit(t.Context(), StageCommitted), "not this one")
		}
		disarm()
		assert.Equal(t, want, got, text)
	}
}

func TestFailpointVariable(t *testing.T) {
	for _, text := range []string{"relay.acked", "relay.acked=", "relay.acked=vanish", "relay.acked=kill@", "relay.acked=kill@0", "relay.acked=kill@-1",
		"relay.acked=kill@x", "relay.acked=kill@1/0", "relay.acked=kill@1/", "relay.acked=stall", "relay.acked=stall:soon", "nowhere=kill",
		"relay.acked=kill,"} {
		victim := exec.CommandContext(t.Context(), os.Args[0])
		victim.Env = append(os.Environ(), asVictim+"=1", Variable+"="+text)
		output, err := victim.CombinedOutput()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, text)
		assert.Equal(t, 2, exit.ExitCode(), text)
		assert.Contains(t, string(output), Variable, text)
	}
}

func TestFailpointKills(t *testing.T) {
	for text, want := range map[string]struct{ stdout, stderr string }{
		"relay.acked=kill@3,store.committed=panic": {"1 false\n2 false\n", `"msg":"failpoint","point":"relay.acked","action":"kill","hit":3}`},
		"relay.acked=panic@2":                      {"1 false\n", "panic: failpoint relay.acked"},
		"relay.acked=error@2/2":                    {"1 false\n2 true\n3 false\n4 true\n5 false\n", `"action":"error","hit":4}`},
		"relay.acked=stall:1ns":                    {"1 false\n2 false\n3 false\n4 false\n5 false\n", `"action":"stall:1ns","hit":5}`},
		"":                                         {"1 false\n2 false\n3 false\n4 false\n5 false\n", ""},
	} {
		victim := exec.CommandContext(t.Context(), os.Args[0])
		victim.Env = append(os.Environ(), asVictim+"=1", Variable+"="+text)
		var stdout, stderr strings.Builder
		victim.Stdout, victim.Stderr = &stdout, &stderr
		err := victim.Run()
		assert.Equal(t, want.stdout, stdout.String(), text)
		assert.Contains(t, stderr.String(), want.stderr, text)
		if strings.Contains(text, "kill") {
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			assert.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal())
		}
	}
}
