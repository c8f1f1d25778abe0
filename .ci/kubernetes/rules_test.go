package kubernetes

import (
	"fmt"
	"maps"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// stopSeconds is how long a stop takes at most (docs/operations-reference.md).
const stopSeconds = 10

// egressPorts are those of DNS, PostgreSQL, Kafka with and without TLS, and HTTPS.
var egressPorts = []int{53, 443, 5432, 9092, 9093}

// rules are what manifests are held to.
type rules struct {
	release           string
	settings, secrets map[string]bool
	pods              policy.Evaluator
}

func newRules(t *testing.T) *rules {
	t.Helper()
	r := &rules{release: release(t)}
	r.settings, r.secrets = settings(t)
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.pods = evaluator
	return r
}

// workload is what makes pods, of whatever kind.
type workload struct {
	name     string
	replicas int
	serves   bool
	template corev1.PodTemplateSpec
	selector *metav1.LabelSelector // nil where the pods are a Job's
	stable   bool                  // each pod keeps its name
}

// installation is the objects of a folder by kind.
type installation struct {
	workloads []workload
	settings  map[string]map[string]string // ConfigMaps
	services  []*corev1.Service
	budgets   []*policyv1.PodDisruptionBudget
	networks  []*networkingv1.NetworkPolicy
	others    []string
}

func byKind(objects []runtime.Object) installation {
	i := installation{settings: map[string]map[string]string{}}
	for _, object := range objects {
		switch o := object.(type) {
		case *appsv1.Deployment:
			i.workloads = append(i.workloads, workload{o.Name, replicas(o.Spec.Replicas), true, o.Spec.Template, o.Spec.Selector, false})
		case *appsv1.StatefulSet:
			i.workloads = append(i.workloads, workload{o.Name, replicas(o.Spec.Replicas), true, o.Spec.Template, o.Spec.Selector, true})
		case *batchv1.CronJob:
			if o.Spec.Suspend == nil || !*o.Spec.Suspend {
				i.others = append(i.others, o.Name+": it runs by itself")
			}
			i.workloads = append(i.workloads, workload{o.Name, 1, false, o.Spec.JobTemplate.Spec.Template, nil, false})
		case *corev1.ConfigMap:
			i.settings[o.Name] = o.Data
		case *corev1.Service:
			i.services = append(i.services, o)
		case *policyv1.PodDisruptionBudget:
			i.budgets = append(i.budgets, o)
		case *networkingv1.NetworkPolicy:
			i.networks = append(i.networks, o)
		default:
			i.others = append(i.others, fmt.Sprintf("%T: there is no rule for it", object))
		}
	}
	return i
}

func replicas(n *int32) int {
	if n == nil {
		return 1
	}
	return int(*n)
}

// faults is what an installation has that the rules forbid, or lacks.
func (r *rules) faults(objects []runtime.Object) []string {
	i := byKind(objects)
	found := i.others
	for _, w := range i.workloads {
		for _, fault := range slices.Concat(r.ofPod(w), r.ofSettings(w, i.settings), ofProbes(w, i.settings), ofNeighbours(w, i)) {
			found = append(found, w.name+": "+fault)
		}
	}
	found = append(found, ofSelectors(i)...)
	found = append(found, ofNetworks(i)...)
	slices.Sort(found)
	return found
}

// ofPod holds a pod to "restricted" of Kubernetes' Pod Security Standards, and to more.
func (r *rules) ofPod(w workload) []string {
	var found []string
	spec := w.template.Spec
	for _, result := range r.pods.EvaluatePod(api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()},
		&w.template.ObjectMeta, &spec) {
		if !result.Allowed {
			found = append(found, "not restricted: "+result.ForbiddenReason)
		}
	}
	if len(spec.Containers) != 1 || len(spec.InitContainers) > 0 {
		return append(found, "there is more than one container")
	}
	c := spec.Containers[0]
	repository, tag, _ := strings.Cut(path.Base(c.Image), ":")
	var before int64
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil && c.Lifecycle.PreStop.Sleep != nil {
		before = c.Lifecycle.PreStop.Sleep.Seconds
	}
	for rule, broken := range map[string]bool{
		"the image is not version " + r.release: repository != "pricemill" || tag != r.release,
		"its root file system is writable":      c.SecurityContext == nil || c.SecurityContext.ReadOnlyRootFilesystem == nil || !*c.SecurityContext.ReadOnlyRootFilesystem,
		"it has a token of the cluster":         spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken,
		"names of services become variables":    spec.EnableServiceLinks == nil || *spec.EnableServiceLinks,
		"its time to stop is too short": spec.TerminationGracePeriodSeconds == nil ||
			*spec.TerminationGracePeriodSeconds < before+stopSeconds,
		"its resources are not requested and limited": !limited(c.Resources),
		"it is stopped before requests go elsewhere":  w.serves && !w.stable && before == 0,
	} {
		if broken {
			found = append(found, rule)
		}
	}
	return found
}

func limited(r corev1.ResourceRequirements) bool {
	return !r.Requests.Cpu().IsZero() && !r.Requests.Memory().IsZero() && !r.Limits.Cpu().IsZero() && !r.Limits.Memory().IsZero() &&
		r.Requests.Memory().Cmp(*r.Limits.Memory()) <= 0
}

// environment is what the container sees, without what the cluster fills in.
func environment(c corev1.Container, configured map[string]map[string]string) (values map[string]string, missing []string) {
	values = map[string]string{}
	for _, from := range c.EnvFrom {
		if from.ConfigMapRef == nil || configured[from.ConfigMapRef.Name] == nil {
			missing = append(missing, "its settings are not there")
			continue
		}
		maps.Copy(values, configured[from.ConfigMapRef.Name])
	}
	for _, variable := range c.Env {
		values[variable.Name] = variable.Value
	}
	return values, missing
}

func (r *rules) ofSettings(w workload, configured map[string]map[string]string) []string {
	c := w.template.Spec.Containers[0]
	values, found := environment(c, configured)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		secret, isFile := strings.CutSuffix(name, "_FILE")
		switch {
		case r.secrets[name] && values[name] != "":
			found = append(found, name+" holds a secret")
		case r.settings[name]:
		case isFile && r.secrets[secret]:
			if !mounted(w.template.Spec, values[name]) {
				found = append(found, name+" names no file of a secret that it has")
			}
		case name == "GOMEMLIMIT":
			limit, err := resource.ParseQuantity(strings.TrimSuffix(values[name], "B"))
			if err != nil || limit.Value()*10 > c.Resources.Limits.Memory().Value()*9 {
				found = append(found, "GOMEMLIMIT is not below its memory")
			}
		default:
			found = append(found, name+" is no setting")
		}
	}
	if values["GOMEMLIMIT"] == "" {
		found = append(found, "GOMEMLIMIT is not set")
	}
	if values["KAFKA_BOOTSTRAP_SERVERS"] != "" && w.stable && !slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool {
		return e.Name == "KAFKA_INSTANCE_ID" && e.ValueFrom != nil && e.ValueFrom.FieldRef != nil && e.ValueFrom.FieldRef.FieldPath == "metadata.name"
	}) {
		found = append(found, "KAFKA_INSTANCE_ID is not the name of the pod")
	}
	if w.replicas > 1 && values["DATABASE_URL_FILE"] == "" {
		found = append(found, "several processes on SQLite")
	}
	if values["DATABASE_URL_FILE"] == "" && !onVolume(w.template.Spec, values["DATA_DIR"]) {
		found = append(found, "DATA_DIR is on no volume")
	}
	return found
}

// mounted reports whether a file lies in a folder of a secret.
func mounted(spec corev1.PodSpec, file string) bool {
	for _, mount := range spec.Containers[0].VolumeMounts {
		for _, volume := range spec.Volumes {
			if mount.Name == volume.Name && mount.MountPath == path.Dir(file) && volume.Secret != nil && mount.ReadOnly {
				return true
			}
		}
	}
	return false
}

// onVolume reports whether a folder is mounted. Volumes of a claim are made of a template,
// which is not in the pod.
func onVolume(spec corev1.PodSpec, dir string) bool {
	return slices.ContainsFunc(spec.Containers[0].VolumeMounts, func(m corev1.VolumeMount) bool {
		return dir != "" && m.MountPath == dir && !slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
	})
}

// ofProbes holds what is asked to the port on which the process listens, and to the routes
// of docs/operations-reference.md.
func ofProbes(w workload, configured map[string]map[string]string) []string {
	if !w.serves {
		return nil
	}
	c := w.template.Spec.Containers[0]
	values, _ := environment(c, configured)
	var found []string
	_, listens, err := net.SplitHostPort(values["HTTP_ADDR"])
	port, convErr := strconv.Atoi(listens)
	if err != nil || convErr != nil {
		return append(found, "HTTP_ADDR has no port")
	}
	for _, p := range c.Ports {
		if int(p.ContainerPort) != port || p.Name != "http" {
			found = append(found, fmt.Sprintf("nothing listens on its port %d", p.ContainerPort))
		}
	}
	for name, want := range map[string]struct {
		probe *corev1.Probe
		path  string
	}{
		"startup probe":   {c.StartupProbe, "/livez"},
		"readiness probe": {c.ReadinessProbe, "/readyz"},
		"liveness probe":  {c.LivenessProbe, "/livez"},
	} {
		switch p := want.probe; {
		case p == nil || p.HTTPGet == nil:
			found = append(found, "there is no "+name)
		case p.HTTPGet.Path != want.path:
			found = append(found, "its "+name+" asks "+p.HTTPGet.Path)
		case portOf(c, p.HTTPGet.Port) != port:
			found = append(found, "its "+name+" asks a port on which nothing listens")
		case p.TimeoutSeconds < 3:
			found = append(found, "its "+name+" waits too briefly")
		case name == "startup probe" && p.PeriodSeconds*p.FailureThreshold < 300:
			found = append(found, "a start has no time for migrations")
		}
	}
	return found
}

// portOf is the number of a port, 0 if the container has none of that name.
func portOf(c corev1.Container, port intstr.IntOrString) int {
	if port.Type == intstr.Int {
		return port.IntValue()
	}
	for _, p := range c.Ports {
		if p.Name == port.StrVal {
			return int(p.ContainerPort)
		}
	}
	return 0
}

func selects(selector *metav1.LabelSelector, w workload) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && !s.Empty() && s.Matches(labels.Set(w.template.Labels))
}

// ofNeighbours is what a workload needs next to it.
func ofNeighbours(w workload, i installation) []string {
	var found []string
	if w.selector != nil && !selects(w.selector, w) {
		found = append(found, "its selector is not that of its pods")
	}
	if w.replicas > 1 {
		at := slices.IndexFunc(i.budgets, func(b *policyv1.PodDisruptionBudget) bool { return selects(b.Spec.Selector, w) })
		switch {
		case at < 0:
			found = append(found, "no budget bounds its disruptions")
		case i.budgets[at].Spec.MaxUnavailable == nil || i.budgets[at].Spec.MaxUnavailable.IntValue() != 1:
			found = append(found, "its budget is not one pod")
		case i.budgets[at].Spec.UnhealthyPodEvictionPolicy == nil || *i.budgets[at].Spec.UnhealthyPodEvictionPolicy != policyv1.AlwaysAllow:
			found = append(found, "pods that are not ready hold up a drain")
		}
		spread := w.template.Spec.TopologySpreadConstraints
		if !slices.ContainsFunc(spread, func(s corev1.TopologySpreadConstraint) bool {
			return s.TopologyKey == "kubernetes.io/hostname" && selects(s.LabelSelector, w)
		}) {
			found = append(found, "its pods are not spread over nodes")
		}
	}
	policies := 0
	for _, n := range i.networks {
		if selects(&n.Spec.PodSelector, w) {
			policies++
		}
	}
	if policies != 1 {
		found = append(found, fmt.Sprintf("%d network policies are for it", policies))
	}
	served := slices.ContainsFunc(i.services, func(s *corev1.Service) bool {
		return selects(&metav1.LabelSelector{MatchLabels: s.Spec.Selector}, w)
	})
	if w.serves && !served {
		found = append(found, "no service has its pods")
	}
	return found
}

// ofSelectors is what selects nothing, or more than one workload, and ports of services
// that no pod has.
func ofSelectors(i installation) []string {
	var found []string
	only := func(name string, selector *metav1.LabelSelector) *workload {
		var chosen []workload
		for _, w := range i.workloads {
			if selects(selector, w) {
				chosen = append(chosen, w)
			}
		}
		if len(chosen) != 1 {
			found = append(found, fmt.Sprintf("%s: it selects the pods of %d workloads", name, len(chosen)))
			return nil
		}
		return &chosen[0]
	}
	for _, s := range i.services {
		w := only("service "+s.Name, &metav1.LabelSelector{MatchLabels: s.Spec.Selector})
		if s.Spec.Type != "" && s.Spec.Type != corev1.ServiceTypeClusterIP {
			found = append(found, "service "+s.Name+": it is reached from outside the cluster")
		}
		for _, p := range s.Spec.Ports {
			if c := w; c != nil && (portOf(c.template.Spec.Containers[0], p.TargetPort) == 0 ||
				!slices.ContainsFunc(c.template.Spec.Containers[0].Ports, func(have corev1.ContainerPort) bool {
					return int(have.ContainerPort) == portOf(c.template.Spec.Containers[0], p.TargetPort)
				})) {
				found = append(found, "service "+s.Name+": its pods have no such port")
			}
		}
	}
	for _, b := range i.budgets {
		only("budget "+b.Name, b.Spec.Selector)
	}
	for _, n := range i.networks {
		only("network policy "+n.Name, &n.Spec.PodSelector)
	}
	return found
}

// ofNetworks holds policies to known ports, and to clients that are named by a label.
func ofNetworks(i installation) []string {
	var found []string
	for _, n := range i.networks {
		add := func(text string) { found = append(found, "network policy "+n.Name+": "+text) }
		if !slices.Contains(n.Spec.PolicyTypes, networkingv1.PolicyTypeIngress) || !slices.Contains(n.Spec.PolicyTypes, networkingv1.PolicyTypeEgress) {
			add("it leaves a direction open")
		}
		for _, rule := range n.Spec.Ingress {
			if len(rule.Ports) != 1 || rule.Ports[0].Port == nil || rule.Ports[0].Port.String() != "http" {
				add("it lets in to more than the port http")
			}
			if !slices.ContainsFunc(rule.From, letsIn("metrics")) || slices.ContainsFunc(rule.From, letsIn("")) {
				add("clients are not let in by their label alone")
			}
		}
		for _, rule := range n.Spec.Egress {
			for _, p := range rule.Ports {
				if p.Port == nil || !slices.Contains(egressPorts, p.Port.IntValue()) {
					add("it lets out to an unknown port")
				}
			}
			https := slices.ContainsFunc(rule.Ports, func(p networkingv1.NetworkPolicyPort) bool { return p.Port != nil && p.Port.IntValue() == 443 })
			if len(rule.Ports) == 0 || https && len(rule.To) == 0 {
				add("it lets out to everything")
			}
		}
	}
	return found
}

// letsIn returns whether a rule lets in a pod that has this value of pricemill-access, and
// no other label.
func letsIn(access string) func(networkingv1.NetworkPolicyPeer) bool {
	client := labels.Set{}
	if access != "" {
		client["pricemill-access"] = access
	}
	return func(peer networkingv1.NetworkPolicyPeer) bool {
		s, err := metav1.LabelSelectorAsSelector(peer.PodSelector)
		return err == nil && peer.PodSelector != nil && s.Matches(client)
	}
}
