// Package deployment is a module of its own, so that what it takes to read
// compose files and Dockerfiles is no dependency of the program. Its tests hold
// the files of the installation to the rules of the house; CI runs them.
package deployment
