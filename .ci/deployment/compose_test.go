package deployment

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

const (
	root       = "../.."
	fullFile   = "docker-compose.yml"
	singleFile = "docker-compose.single.yml"
	sharedEnv  = "cluster.env"
)

// load reads a compose file as docker compose does, in a folder that holds the
// file and the shared settings and nothing else, such as a .env of yours.
func load(t *testing.T, name, content string) (*types.Project, error) {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, name), content)
	write(t, filepath.Join(dir, sharedEnv), read(t, sharedEnv))
	options, err := cli.NewProjectOptions([]string{filepath.Join(dir, name)},
		cli.WithWorkingDirectory(dir), cli.WithName("pricemill"))
	if err != nil {
		return nil, err
	}
	return options.LoadProject(t.Context())
}

func read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ours is the image that the compose files build.
const ours = "pricemill:local"

var (
	pinned = regexp.MustCompile(`^[a-z/]+:[0-9][\w.-]+@sha256:[0-9a-f]{64}$`)
	// secretName is the name of a variable that would hold a secret; secretURL
	// is a value that does.
	secretName = regexp.MustCompile(`(?i)(PASSW|SECRET|TOKEN|KEY)`)
	secretURL  = regexp.MustCompile(`://[^/@]*:[^/@]+@`)
	// rootless are the images whose processes are not root's by themselves.
	rootless = []string{ours, "apache/kafka", "adminer"}
	// writable are the services whose images write to folders of their own.
	writable = []string{"kafka"}
)

// faults is what a project has that the rules forbid, or lacks.
func faults(p *types.Project) []string {
	var found []string
	for name, s := range p.Services {
		for rule, broken := range serviceRules(p, s) {
			if broken {
				found = append(found, name+": "+rule)
			}
		}
		for variable, value := range s.Environment {
			literal := secretName.MatchString(variable) && !strings.HasSuffix(variable, "_FILE")
			if value != nil && *value != "" && (literal || secretURL.MatchString(*value)) {
				found = append(found, name+": "+variable+" holds a secret")
			}
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				found = append(found, fmt.Sprintf("%s: port %d is published beyond loopback", name, port.Target))
			}
		}
		for _, volume := range s.Volumes {
			if volume.Type != types.VolumeTypeVolume || volume.Source == "" {
				found = append(found, name+": "+volume.Target+" is no named volume")
			}
		}
		for other, dependency := range s.DependsOn {
			if dependency.Condition != types.ServiceConditionHealthy {
				found = append(found, name+": does not wait until "+other+" is healthy")
			}
		}
	}
	slices.Sort(found)
	return found
}

func serviceRules(p *types.Project, s types.ServiceConfig) map[string]bool {
	var limits *types.Resource
	if s.Deploy != nil {
		limits = s.Deploy.Resources.Limits
	}
	isOurs := s.Image == ours && s.Build != nil
	image, _, _ := strings.Cut(s.Image, ":")
	return map[string]bool{
		"the image is not pinned":  !isOurs && !pinned.MatchString(s.Image),
		"there is no health check": s.HealthCheck == nil || s.HealthCheck.Disable,
		"the health check needs a shell": s.HealthCheck != nil &&
			(len(s.HealthCheck.Test) < 2 || s.HealthCheck.Test[0] != "CMD"),
		"it is privileged":           s.Privileged || len(s.CapAdd) > 0 || len(s.Devices) > 0,
		"it shares the host's world": s.NetworkMode == "host" || s.Pid == "host" || s.Ipc == "host" || s.UserNSMode == "host",
		"it has capabilities":        !slices.Equal(s.CapDrop, []string{"ALL"}),
		"it may gain privileges":     !slices.Contains(s.SecurityOpt, "no-new-privileges:true"),
		"it may be root": !slices.Contains(rootless, image) && !isOurs &&
			(s.User == "" || strings.HasPrefix(s.User, "0") || s.User == "root"),
		"its root file system is writable": !s.ReadOnly && !slices.Contains(writable, s.Name),
		"it is not started again":          s.Restart != types.RestartPolicyUnlessStopped,
		"it has no time to stop":           s.StopGracePeriod == nil,
		"its resources are not limited":    limits == nil || limits.NanoCPUs <= 0 || limits.MemoryBytes <= 0 || limits.Pids <= 0,
		"its log is not bounded":           s.Logging == nil || s.Logging.Driver != "local",
	}
}

func TestComposeFiles(t *testing.T) {
	t.Parallel()
	for name, services := range map[string][]string{
		fullFile:   {"adminer", "api", "kafka", "postgres", "worker"},
		singleFile: {"pricemill"},
	} {
		project, err := load(t, name, read(t, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, fault := range faults(project) {
			t.Errorf("%s: %s", name, fault)
		}
		if got := project.ServiceNames(); !slices.Equal(got, services) {
			t.Errorf("%s has the services %v, want %v", name, got, services)
		}
	}
}

// TestFaultsAreFound breaks each rule, and looks whether someone notices.
func TestFaultsAreFound(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ old, new, fault string }{
		{"apache/kafka:4.3.1@sha256:", "apache/kafka:4.3.1 #", "kafka: the image is not pinned"},
		{"image: adminer:6.1.0-standalone", "image: adminer:latest", "adminer: the image is not pinned"},
		{"test: [CMD, pg_isready, --quiet, --host=127.0.0.1, --username=pricemill, --dbname=pricemill]", "disable: true", "postgres: there is no health check"},
		{"test: [CMD, pg_isready, --quiet, --host=127.0.0.1, --username=pricemill, --dbname=pricemill]", "test: pg_isready", "postgres: the health check needs a shell"},
		{`user: "999:999" # postgres`, "privileged: true", "postgres: it is privileged"},
		{`user: "999:999" # postgres`, "cap_add: [SYS_ADMIN]", "postgres: it is privileged"},
		{`user: "999:999" # postgres`, "pid: host", "postgres: it shares the host's world"},
		{`user: "999:999" # postgres`, "", "postgres: it may be root"},
		{`user: "999:999" # postgres`, `user: "0"`, "postgres: it may be root"},
		{"cap_drop: [ALL]", "", "worker: it has capabilities"},
		{`security_opt: ["no-new-privileges:true"]`, "", "api: it may gain privileges"},
		{"read_only: true", "", "postgres: its root file system is writable"},
		{"restart: unless-stopped", "", "adminer: it is not started again"},
		{"stop_grace_period: 1m", "", "postgres: it has no time to stop"},
		{"memory: 1536M", "", "kafka: its resources are not limited"},
		{"driver: local", "driver: json-file", "api: its log is not bounded"},
		{"127.0.0.1:8000:8000", "8000:8000", "api: port 8000 is published beyond loopback"},
		{"127.0.0.1:8080:8080", "0.0.0.0:8080:8080", "adminer: port 8080 is published beyond loopback"},
		{"POSTGRES_PASSWORD_FILE: /run/secrets/postgres_password", "POSTGRES_PASSWORD: hunter2", "postgres: POSTGRES_PASSWORD holds a secret"},
		{`DATABASE_URL: ""`, "DATABASE_URL: postgres://u:hunter2@h/d", "api: DATABASE_URL holds a secret"},
		{"kafka:/var/lib/kafka/data", "/var/run/docker.sock:/var/lib/kafka/data", "kafka: /var/lib/kafka/data is no named volume"},
		{"condition: service_healthy", "condition: service_started", "worker: does not wait until postgres is healthy"},
	} {
		content := read(t, fullFile)
		if !strings.Contains(content, test.old) {
			t.Errorf("%q is not in %s", test.old, fullFile)
			continue
		}
		project, err := load(t, fullFile, strings.Replace(content, test.old, test.new, 1))
		if err != nil {
			t.Errorf("%q: %v", test.new, err)
			continue
		}
		if found := faults(project); !slices.Contains(found, test.fault) {
			t.Errorf("%q in place of %q: found %q, and not %q", test.new, test.old, found, test.fault)
		}
	}
	if _, err := load(t, fullFile, strings.Replace(read(t, fullFile), "cap_drop:", "cap_dorp:", 1)); err == nil {
		t.Error("a key that does not exist is accepted")
	}
}

// TestOneInstallation: containers and .ci/cluster start the same processes.
func TestOneInstallation(t *testing.T) {
	t.Parallel()
	project, err := load(t, fullFile, read(t, fullFile))
	if err != nil {
		t.Fatal(err)
	}
	script := read(t, ".ci/cluster")
	variables := regexp.MustCompile(`(?m)^([A-Z_]+)=(.+)$`).FindAllStringSubmatch(read(t, sharedEnv), -1)
	if len(variables) == 0 {
		t.Errorf("%s has no settings", sharedEnv)
	}
	for name, replicas := range map[string]int{"api": 1, "worker": 2} {
		service := project.Services[name]
		if got := service.GetScale(); got != replicas {
			t.Errorf("%s runs %d times, want %d", name, got, replicas)
		}
		for _, variable := range variables {
			if value := service.Environment[variable[1]]; value == nil || *value != variable[2] {
				t.Errorf("%s does not have %s", name, variable[0])
			}
		}
		if command := strings.Join(service.Command, " "); !strings.Contains(script, "echo "+command+" ;;") {
			t.Errorf(".ci/cluster does not start %s by %q", name, command)
		}
		if names := regexp.MustCompile(`\b`+name+`(-\d)?\b`).FindAllString(
			regexp.MustCompile(`names=\((.*)\)`).FindString(script), -1); len(names) != replicas {
			t.Errorf(".ci/cluster starts %v, want %d", names, replicas)
		}
	}
	if !strings.Contains(script, ". ./"+sharedEnv) {
		t.Errorf(".ci/cluster does not read %s", sharedEnv)
	}
}

// TestSecrets: `make secrets` makes what the compose file mounts, once, and what
// is in it belongs together.
func TestSecrets(t *testing.T) {
	t.Parallel()
	project, err := load(t, fullFile, read(t, fullFile))
	if err != nil {
		t.Fatal(err)
	}
	makefile, err := filepath.Abs(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	command := func() ([]byte, error) {
		c := exec.CommandContext(t.Context(), "make", "-f", makefile, "secrets")
		c.Dir = dir
		c.Env = []string{"PATH=" + os.Getenv("PATH")} // what a make above us says is not for this one
		return c.CombinedOutput()
	}
	if output, err := command(); err != nil || len(output) > 0 {
		t.Fatalf("%v: %s", err, output)
	}
	contents := map[string]string{}
	for name, secret := range project.Secrets {
		if filepath.Base(filepath.Dir(secret.File)) != "secrets" {
			t.Errorf("secret %s is in %s", name, secret.File)
		}
		content, err := os.ReadFile(filepath.Join(dir, "secrets", filepath.Base(secret.File)))
		if err != nil {
			t.Error(err)
		}
		contents[name] = string(content)
	}
	password := contents["postgres_password"]
	if !regexp.MustCompile(`^[0-9a-f]{48}$`).MatchString(password) {
		t.Errorf("the password has %d characters", len(password))
	}
	if want := "postgres://pricemill:" + password + "@postgres:5432/pricemill"; contents["database_url"] != want {
		t.Error("the URL does not lead to the database with its password")
	}
	info, err := os.Stat(filepath.Join(dir, "secrets"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("others may look into the folder of the secrets: %v", info.Mode())
	}
	if output, err := command(); err == nil || !strings.Contains(string(output), "nothing was done") {
		t.Errorf("a second time: %v: %s", err, output)
	}
	for service, variable := range map[string]string{"api": "DATABASE_URL_FILE", "worker": "DATABASE_URL_FILE", "postgres": "POSTGRES_PASSWORD_FILE"} {
		path := project.Services[service].Environment[variable]
		mounted := slices.ContainsFunc(project.Services[service].Secrets, func(s types.ServiceSecretConfig) bool {
			return path != nil && *path == "/run/secrets/"+s.Source
		})
		if !mounted {
			t.Errorf("%s of %s names no secret that it has", variable, service)
		}
	}
	for _, ignored := range []string{"/secrets/", "/.env"} {
		if !strings.Contains(read(t, ".gitignore"), ignored+"\n") {
			t.Errorf("%s may be committed", ignored)
		}
	}
}
