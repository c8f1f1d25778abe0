// Package kubernetes is a module of its own, so that what it takes to render and read
// Kubernetes manifests is no dependency of the program. Its tests render docs/kubernetes and
// hold the manifests, and the systemd unit, to the rules of the house; CI runs them.
package kubernetes
