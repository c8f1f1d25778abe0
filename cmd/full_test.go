package cmd_test

import (
	"bytes"
	"context"
	"database/sql/driver"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"modernc.org/sqlite"

	"github.com/pricemill/pricemill/pipeline/store"
)

// pagesVariable makes the program under test keep SQLite's files from growing
// beyond so many pages.
const pagesVariable = "PRICEMILL_TEST_MAX_PAGES"

// limitPages obeys pagesVariable.
func limitPages() {
	pages, err := strconv.Atoi(os.Getenv(pagesVariable))
	if err != nil {
		return
	}
	sqlite.RegisterConnectionHook(func(conn sqlite.ExecQuerierContext, _ string) error {
		_, err := conn.ExecContext(context.Background(), fmt.Sprintf("PRAGMA max_page_count = %d", pages), []driver.NamedValue{})
		return err
	})
}

// full is something that has no room left, and that room can be made in.
type full struct {
	env environment
	// ballast is how often room can be made by makeRoom.
	ballast  int
	makeRoom func()
	// verifyRoom, if not nil, makes the room that a second copy of the read models
	// needs.
	verifyRoom func()
	// useUp takes what is free within the tables; nil where nothing is.
	useUp func()
	// why is what /readyz says of it.
	why *regexp.Regexp
}

// piece is the room that is made at a time, in bytes.
const piece = 12 << 20

// fullSQLite is a database that may not grow beyond its ballast and a little.
func fullSQLite(t testing.TB, ballast int) *full {
	t.Helper()
	const pageSize, little = 4096, 6 << 20
	spare := ballast + 1
	env := newStack(t, environment{"MOVING_AVERAGE_WINDOW": "5,20", pagesVariable: strconv.Itoa(((ballast+spare)*piece + little) / pageSize)})
	db := openTables(t, env)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	execute := func(statement string) {
		require.NoError(t, db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), statement)
			return err
		}))
	}
	for i := range ballast + spare {
		execute(fmt.Sprintf(`CREATE TABLE ballast_%d AS SELECT zeroblob(%d) AS bytes`, i, piece-pageSize))
	}
	left := ballast + spare
	makeRoom := func() {
		left--
		execute(fmt.Sprintf("DROP TABLE ballast_%d", left))
	}
	return &full{env: env, ballast: ballast, why: regexp.MustCompile("database or disk is full"), makeRoom: makeRoom, verifyRoom: func() {
		for range spare {
			makeRoom()
		}
	}}
}

// smallDisk mounts a file system of so many bytes, with ballast in it that it goes
// without.
func smallDisk(t testing.TB, bytes, ballast, owner int) (dir string, makeRoom func()) {
	t.Helper()
	// Not t.TempDir: another user may have to reach it.
	dir, err := os.MkdirTemp("", "pricemill-small-")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.Remove(dir)) })
	options := fmt.Sprintf("size=%d,mode=0700,uid=%d", bytes, owner)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("a disk can only be filled by root, who may mount a small one: %v", err)
	}
	t.Cleanup(func() { assert.NoError(t, syscall.Unmount(dir, 0)) })
	name := func(i int) string { return filepath.Join(dir, "ballast-"+strconv.Itoa(i)) }
	for i := range ballast {
		require.NoError(t, os.WriteFile(name(i), make([]byte, piece), 0o600))
	}
	return dir, func() {
		ballast--
		require.NoError(t, os.Remove(name(ballast)))
	}
}

// fullPostgres is a database in a tablespace on a small disk. The server's own files
// are elsewhere: without room for its log it would not run at all.
func fullPostgres(t testing.TB, ballast int) *full {
	t.Helper()
	admin := administerPostgres(t)
	var pid int
	require.NoError(t, admin.QueryRow(`SELECT pg_backend_pid()`).Scan(&pid))
	server, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		t.Skip("the disk of PostgreSQL can only be filled where it runs on this machine")
	}
	owner := int(server.Sys().(*syscall.Stat_t).Uid)
	const disk = 24 << 20
	spare := ballast + disk/piece
	dir, makeRoom := smallDisk(t, (ballast+spare)*piece+disk, ballast+spare, owner)
	space := filepath.Join(dir, "space")
	require.NoError(t, os.Mkdir(space, 0o700))
	require.NoError(t, os.Chown(space, owner, -1))
	name := "small_" + strings.ReplaceAll(filepath.Base(dir), "-", "_")
	_, err = admin.Exec(fmt.Sprintf("CREATE TABLESPACE %s LOCATION '%s'", name, space))
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := admin.Exec("DROP TABLESPACE " + name)
		assert.NoError(t, err)
	})
	env := newStack(t, environment{"MOVING_AVERAGE_WINDOW": "5,20"})
	address, err := url.Parse(env["DATABASE_URL"])
	require.NoError(t, err)
	_, err = admin.Exec(fmt.Sprintf("ALTER DATABASE %s SET TABLESPACE %s", strings.TrimPrefix(address.Path, "/"), name))
	require.NoError(t, err)
	f := &full{env: env, ballast: ballast, why: regexp.MustCompile("No space left on device"), verifyRoom: func() {
		for range spare {
			makeRoom()
		}
	}}
	db := openTables(t, env)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	const nobodys = -1 // epoch: the relay looks at those of its topics
	// What the relay has sent leaves room in the outbox: commands could continue.
	f.useUp = func() {
		for seq, rows := 0, 100; rows > 0; seq += rows {
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), `INSERT INTO outbox (epoch, part, seq, msg_key, headers, payload)
					SELECT $1, 0, $2 + n, '', '', '' FROM generate_series(1, $3) AS n`, nobodys, seq, rows)
				return err
			})
			if err != nil {
				assert.Regexp(t, f.why, err.Error())
				rows /= 10
			}
		}
	}
	f.makeRoom = func() {
		makeRoom()
		require.Eventually(t, func() bool {
			return db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), `DELETE FROM outbox WHERE epoch = $1`, nobodys)
				return err
			}) == nil
		}, 10*time.Second, 50*time.Millisecond)
	}
	return f
}

// fullDirectory has the data directory on a small disk.
func fullDirectory(t testing.TB, ballast int) *full {
	t.Helper()
	spare := ballast + 1
	dir, makeRoom := smallDisk(t, (ballast+spare)*piece+(10<<20), ballast+spare, os.Getuid())
	env := newStack(t, environment{"MOVING_AVERAGE_WINDOW": "5,20"})
	env["DATA_DIR"] = dir
	return &full{env: env, ballast: ballast, makeRoom: makeRoom, why: regexp.MustCompile("no space left on device|database or disk is full"),
		verifyRoom: func() {
			for range spare {
				makeRoom()
			}
		}}
}

// server is a program in a process of its own.
type server struct {
	*program
	process *exec.Cmd
}

func serve(t testing.TB, env environment) *server {
	t.Helper()
	process, l := spawn(t, env)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log of a process:\n%s", l)
		}
	})
	p := &program{t: t, env: env, logs: l, url: l.await(t, "listening")["url"].(string)}
	l.await(t, "pipeline running")
	return &server{p, process}
}

// end ends the process by a signal.
func (p *server) end(signal syscall.Signal) {
	p.t.Helper()
	require.NoError(p.t, p.process.Process.Signal(signal))
	err := p.process.Wait()
	if signal == syscall.SIGTERM {
		require.NoError(p.t, err, "exit status 0")
	}
}

// processorTime is what a process has used of the processors.
func processorTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	// The name of the program, in parentheses, may hold anything.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	ticks := 0
	for _, field := range fields[11:13] { // in user mode, and in the kernel's
		n, err := strconv.Atoi(string(field))
		require.NoError(t, err)
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100
}

// fillUp feeds answers until nothing more goes in. The last of them are on their
// way then, and in the log once there is room: done tells when.
func (f *full) fillUp(t testing.TB, p *server, more func(n int) []fedAnswer) (done chan struct{}) {
	t.Helper()
	for {
		answers := more(500)
		done = make(chan struct{})
		go func() { feed(t, f.env, answers); close(done) }()
		isFull := false
		require.Eventually(t, func() bool {
			if ready := p.get("/readyz"); ready.status != http.StatusOK && f.why.MatchString(ready.body) {
				isFull = true
				return true
			}
			select {
			case <-done:
				return p.lags() == ""
			default:
				return false
			}
		}, 2*time.Minute, 50*time.Millisecond, "neither full nor applied; /readyz: %s, and %s", later(func() string { return p.get("/readyz").body }), later(p.lags))
		if isFull {
			return done
		}
	}
}

// later is a text that is made when it is printed.
type later func() string

func (l later) String() string { return l() }

// lags tells what is not applied yet. It looks at metrics alone, since a test that
// opens the tables writes.
func (p *server) lags() string {
	var found []string
	for line := range strings.Lines(p.get("/metrics").body) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(name, "pricemill_stage_lag") || strings.HasPrefix(name, "pricemill_relay_depth") {
			if value, err := strconv.ParseFloat(text, 64); err == nil && value != 0 {
				found = append(found, line)
			}
		}
	}
	return strings.Join(found, "")
}

// TestFaultsDatabaseFull: the database has no room left. What was written stays to
// be read, commands are refused for a while, no record is to blame, and once there
// is room all continues by itself.
func TestFaultsDatabaseFull(t *testing.T) {
	s := newScenario(t, "database full", everyStack...)
	cycles := pick(s, 1, 3)
	if onPostgres() {
		s.runFull(fullPostgres(t, cycles), http.StatusServiceUnavailable)
	} else {
		s.runFull(fullSQLite(t, cycles), http.StatusServiceUnavailable)
	}
}

// TestFaultsDiskFull: the data directory has no room left.
// What the database has freed may take commands on.
func TestFaultsDiskFull(t *testing.T) {
	s := newScenario(t, "disk full", sqliteStack)
	s.runFull(fullDirectory(t, pick(s, 1, 3)), http.StatusAccepted, http.StatusServiceUnavailable)
}

// runFull fills what there is to fill and makes room, as often as there is ballast;
// then the process is started again on what that left, after a stop and a kill.
// Commands are answered by one of the statuses, in the end; what was accepted is
// there.
func (s *scenario) runFull(f *full, commands ...int) {
	t := s.t
	all := makeAnswers(s.random, 200_000, time.Date(2025, 6, 15, 14, 0, 0, 0, time.UTC))
	var fed []fedAnswer
	more := func(n int) []fedAnswer {
		from := len(fed)
		fed = all[:from+n]
		return all[from : from+n]
	}
	p := serve(t, f.env)
	p.eventually("/readyz", http.StatusOK)
	db := openTables(t, f.env) // while there is room
	defer func() { assert.NoError(t, db.Close()) }()
	accepted := 0
	for range f.ballast {
		done := f.fillUp(t, p, more)
		t.Logf("full after %d answers", len(fed))
		accepted += f.checkWhileFull(t, p, commands)
		var letters int
		require.NoError(t, db.Get(t.Context(), &letters, `SELECT count(*) FROM dead_letters`))
		assert.Zero(t, letters, "no record is to blame")
		f.makeRoom()
		began := time.Now()
		<-done
		awaitDrained(t, f.env)
		s.recovered(time.Since(began))
		p.eventually("/readyz", http.StatusOK)
	}
	if f.verifyRoom != nil {
		f.verifyRoom()
	}
	s.check(f.env, fed)
	var jobs int
	require.NoError(t, db.Get(t.Context(), &jobs, `SELECT count(*) FROM polling_jobs`))
	assert.Equal(t, accepted, jobs, "commands that were accepted")
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		p.end(signal)
		p = serve(t, f.env)
		p.eventually("/readyz", http.StatusOK)
	}
	checkTables(t, f.env, fed)
}

// checkWhileFull looks at what clients see, and at what the process does with its
// time. It returns how many commands were accepted.
func (f *full) checkWhileFull(t testing.TB, p *server, commands []int) (accepted int) {
	t.Helper()
	began, used := time.Now(), processorTime(t, p.process.Process.Pid)
	for _, path := range []string{"/livez", "/api/v1/symbols", "/api/v1/prices/poll", "/api/v1/prices/history?symbol=S1&provider=simulated&limit=5",
		"/api/v1/prices/moving-average?symbol=S1&provider=simulated"} {
		assert.Equal(t, http.StatusOK, p.get(path).status, path)
	}
	ready := p.get("/readyz")
	assert.Equal(t, http.StatusServiceUnavailable, ready.status)
	assert.Regexp(t, f.why, ready.body)
	if f.useUp != nil {
		f.useUp()
	}
	last := http.StatusAccepted
	// What is freed meanwhile may take a few.
	for most := 500; accepted < most && last == http.StatusAccepted; {
		answer := p.post("/api/v1/prices/poll", fmt.Sprintf(`{"symbols":["F%d"],"interval":3600,"provider":"simulated"}`, accepted))
		switch last = answer.status; last {
		case http.StatusAccepted:
			accepted++
			if commands[0] == http.StatusAccepted && len(commands) == 1 {
				most = accepted
			}
		case http.StatusServiceUnavailable:
			assert.NotEmpty(t, answer.header.Get("Retry-After"))
		default:
			assert.Fail(t, "a command", "%d %s", answer.status, answer.body)
		}
	}
	assert.Contains(t, commands, last, "what results from commands")
	pause(3 * time.Second)
	spent, took := processorTime(t, p.process.Process.Pid)-used, time.Since(began)
	t.Logf("while full, it used %v of %v", spent, took.Round(time.Millisecond))
	assert.Less(t, spent, took/2, "it waits more than it works")
	return accepted
}
