package kafka_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
)

// asMember makes this test binary a member of a consumer group, in a process
// of its own that can be killed. Its value is a memberConfig in JSON.
const asMember = "PRICEMILL_TEST_AS_MEMBER"

type memberConfig struct {
	Brokers  []string
	Topic    string
	Group    string
	Instance string
}

// memberSession is far above the time any test takes: partitions that change
// hands in a test do so for another reason than its end.
const memberSession = 5 * time.Minute

func (m memberConfig) broker(ctx context.Context) (*kafka.Broker, error) {
	cfg := testConfig()
	cfg.Brokers, cfg.InstanceID, cfg.SessionTimeout = m.Brokers, m.Instance, memberSession
	return kafka.New(ctx, cfg)
}

// memberLine is what a member process says on stdout: that it was given
// partitions, or that it consumed a record.
type memberLine struct {
	Assigned []int32 `json:",omitempty"`
	Consumed string  `json:",omitempty"`
}

// runMember is the member's process. It is killed, and never returns otherwise
// than by a fault.
func runMember(text string) error {
	var m memberConfig
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return err
	}
	ctx := context.Background()
	b, err := m.broker(ctx)
	if err != nil {
		return err
	}
	assignor := newPositions()
	sub, err := b.Subscriber(log.SubscriberConfig{Group: m.Group, Assignor: assignor, BatchSize: 1})
	if err != nil {
		return err
	}
	messages, err := sub.Subscribe(ctx, m.Topic)
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	for {
		select {
		case claims := <-assignor.called:
			err = out.Encode(memberLine{Assigned: partitionsOf(claims)})
		case msg, open := <-messages:
			if !open {
				return errors.New("the subscription ended")
			}
			err = out.Encode(memberLine{Consumed: string(msg.Payload)})
			msg.Ack()
		}
		if err != nil {
			return err
		}
	}
}

func partitionsOf(claims []log.Claim) []int32 {
	var partitions []int32
	for _, claim := range claims {
		partitions = append(partitions, claim.Partition)
	}
	return partitions
}

// spawnMember starts a member and returns what it says.
func spawnMember(t *testing.T, m memberConfig) (*exec.Cmd, <-chan memberLine) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	process := exec.Command(self)
	process.Env = append(os.Environ(), asMember+"="+string(text))
	process.Stderr = os.Stderr
	stdout, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan memberLine, 1000)
	read := make(chan struct{})
	go func() {
		defer close(read)
		for scanner := bufio.NewScanner(stdout); scanner.Scan(); {
			var line memberLine
			if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
				t.Errorf("a member said %q: %v", scanner.Text(), err)
			}
			lines <- line
		}
	}()
	t.Cleanup(func() { kill(process); <-read })
	return process, lines
}

// kill ends a process as kill -9 does; it may have been killed before.
func kill(process *exec.Cmd) {
	_ = process.Process.Kill()
	_ = process.Wait() // says that it was killed
}

// awaitAssigned waits until the member has n partitions.
func awaitAssigned(t *testing.T, lines <-chan memberLine, n int) []int32 {
	t.Helper()
	for {
		if line := wait(t, fmt.Sprintf("a member with %d partitions", n), lines); len(line.Assigned) == n {
			return line.Assigned
		}
	}
}

// TestAStaticMemberComesBack kills the process of a static member. It comes
// back long before its session would end and has its partitions at once, while
// the session of the other member continues: a batch that was in flight all the
// time still belongs to it. The leader of a group, its first member, is treated
// apart by the protocol.
func TestAStaticMemberComesBack(t *testing.T) {
	t.Parallel()
	for _, leads := range []bool{true, false} {
		t.Run(fmt.Sprintf("leader %v", leads), func(t *testing.T) {
			t.Parallel()
			testStaticMember(t, leads)
		})
	}
}

func testStaticMember(t *testing.T, leads bool) {
	b := newBroker(t, func(c *kafka.Config) { c.SessionTimeout = memberSession })
	topic := newTopic(t, b)
	member := memberConfig{Brokers: cluster.brokers, Topic: string(topic), Group: unique("group"), Instance: "node-1"}
	other := newPositions()
	join := func() (<-chan memberLine, *exec.Cmd) {
		process, lines := spawnMember(t, member)
		return lines, process
	}
	var lines <-chan memberLine
	var process *exec.Cmd
	if leads {
		lines, process = join()
		awaitAssigned(t, lines, 4)
	}
	messages := subscribe(t, b, log.SubscriberConfig{Group: member.Group, Assignor: other, BatchSize: 1}, string(topic))
	if !leads {
		wait(t, "the first member", other.called)
		lines, process = join()
	}
	theirs := awaitAssigned(t, lines, 2)
	ours := awaitClaims(t, other, 2)
	send(t, b, at(topic, ours[0]), numbered(0, 1)...)
	inFlight, _ := receive(t, messages)

	kill(process)
	killed := time.Now()
	lines, _ = join()
	if back := awaitAssigned(t, lines, 2); !slices.Equal(back, theirs) {
		t.Errorf("the member had partitions %d, and came back to %d", theirs, back)
	}
	t.Logf("back after %v", time.Since(killed))
	send(t, b, at(topic, theirs[1]), numbered(7, 1)...)
	for wait(t, "a record that the member consumed", lines).Consumed != "7" {
		continue
	}
	if inFlight.Context().Err() != nil || len(other.called) != 0 {
		t.Errorf("the other member's session ended, and it was assigned partitions %d times more", len(other.called))
	}
	inFlight.Ack()
	send(t, b, at(topic, ours[0]), numbered(1, 1)...)
	msg, batch := receive(t, messages)
	if batch.Records[0].Offset != 1 {
		t.Errorf("the other member continued at offset %d, want 1", batch.Records[0].Offset)
	}
	msg.Ack()
}

// awaitClaims waits until the member has n partitions.
func awaitClaims(t *testing.T, p *positions, n int) []int32 {
	t.Helper()
	for {
		if claims := wait(t, "an assignment", p.called); len(claims) == n {
			return partitionsOf(claims)
		}
	}
}

// TestTwoProcessesOfOneInstanceID starts a second process by the id of one that
// lives. It takes the place of the first, which says so and stays out of the
// group: if it came back, the two would put each other out forever.
func TestTwoProcessesOfOneInstanceID(t *testing.T) {
	t.Parallel()
	said := make(logLines, 1000)
	first := newBroker(t, func(c *kafka.Config) {
		c.InstanceID, c.Logger = "node-1", slog.New(slog.NewTextHandler(said, nil))
	})
	second := newBroker(t, func(c *kafka.Config) { c.InstanceID = "node-1" })
	topic := newTopic(t, first)
	one, two := newPositions(), newPositions()
	subscribe(t, first, log.SubscriberConfig{Assignor: one}, string(topic))
	awaitClaims(t, one, 4)
	messages := subscribe(t, second, log.SubscriberConfig{Assignor: two}, string(topic))
	awaitClaims(t, two, 4)
	send(t, first, at(topic, 0), numbered(0, 1)...)
	inFlight, _ := receive(t, messages)
	for range 4 { // the end of the session, and attempts to join again
		if line := wait(t, "the first to say why it is out", said); !strings.Contains(line, "instance=node-1") {
			t.Errorf("the first said %s", line)
		}
	}
	if inFlight.Context().Err() != nil || len(one.called) != 0 || len(two.called) != 0 {
		t.Errorf("the session of the second was disturbed")
	}
	inFlight.Ack()
}

// logLines is a log that tests wait for.
type logLines chan string

func (l logLines) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}
