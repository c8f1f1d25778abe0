package kubernetes

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const (
	root      = "../.."
	manifests = "docs/kubernetes"
)

// kustomizations are the folders that a cluster is given.
var kustomizations = []string{"base", "example", "single"}

func read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// folders is a copy of the manifests, in which a test may change a file.
func folders(t *testing.T) filesys.FileSystem {
	t.Helper()
	inMemory := filesys.MakeFsInMemory()
	names, err := filepath.Glob(filepath.Join(root, manifests, "*", "*"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		path := "/" + filepath.Base(filepath.Dir(name)) + "/" + filepath.Base(name)
		if err := inMemory.WriteFile(path, content); err != nil {
			t.Fatal(err)
		}
	}
	return inMemory
}

// decoder is the one of a Kubernetes API server that warns of nothing and refuses instead:
// an unknown field and one that is there twice are errors.
func decoder() (runtime.Decoder, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{appsv1.AddToScheme, batchv1.AddToScheme,
		corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	return json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme,
		json.SerializerOptions{Yaml: true, Strict: true}), nil
}

// render builds a folder as `kubectl kustomize` does, and decodes each document.
func render(files filesys.FileSystem, folder string) ([]runtime.Object, error) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(files, "/"+folder)
	if err != nil {
		return nil, err
	}
	decode, err := decoder()
	if err != nil {
		return nil, err
	}
	var objects []runtime.Object
	for _, resource := range built.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			return nil, err
		}
		object, _, err := decode.Decode(text, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", resource.CurId(), err)
		}
		objects = append(objects, object)
	}
	return objects, nil
}

// release is the newest version that CHANGELOG.md has.
func release(t *testing.T) string {
	t.Helper()
	found := regexp.MustCompile(`(?m)^## (\d+\.\d+\.\d+)$`).FindStringSubmatch(read(t, "CHANGELOG.md"))
	if found == nil {
		t.Fatal("CHANGELOG.md has no version")
	}
	return found[1]
}

// settings are the names that the program reads from its environment: .env.example has all
// of them, to which a test of the program holds it. Secrets can be read from files.
func settings(t *testing.T) (names, secrets map[string]bool) {
	t.Helper()
	names, secrets = map[string]bool{}, map[string]bool{}
	example := read(t, ".env.example")
	for _, match := range regexp.MustCompile(`(?m)^#([A-Z_]+)=`).FindAllStringSubmatch(example, -1) {
		names[match[1]] = true
	}
	list := regexp.MustCompile(`(?s)Any secret \((.*?)\)`).FindStringSubmatch(example)
	if list == nil || len(names) < 20 {
		t.Fatal(".env.example does not list the settings and the secrets")
	}
	for _, name := range regexp.MustCompile(`[A-Z_]{3,}`).FindAllString(list[1], -1) {
		secrets[name] = true
	}
	return names, secrets
}

func TestManifests(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	for _, folder := range kustomizations {
		objects, err := render(folders(t), folder)
		if err != nil {
			t.Errorf("%s: %v", folder, err)
			continue
		}
		for _, fault := range r.faults(objects) {
			t.Errorf("%s: %s", folder, fault)
		}
	}
}

// TestFaultsAreFound breaks each rule, and looks whether someone notices.
func TestFaultsAreFound(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	for _, test := range broken {
		files := folders(t)
		content, err := files.ReadFile("/" + test.file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(content), test.old) {
			t.Errorf("%q is not in %s", test.old, test.file)
			continue
		}
		changed := strings.Replace(string(content), test.old, test.new, 1)
		if err := files.WriteFile("/"+test.file, []byte(changed)); err != nil {
			t.Fatal(err)
		}
		var found []string
		objects, err := render(files, filepath.Dir(test.file))
		if err != nil {
			found = []string{err.Error()}
		} else {
			found = r.faults(objects)
		}
		if !strings.Contains(strings.Join(found, "\n")+"\n", test.fault+"\n") {
			t.Errorf("%q in place of %q: found %q, and not %q", test.new, test.old, found, test.fault)
		}
	}
}
