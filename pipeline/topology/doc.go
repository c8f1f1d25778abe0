// Package topology checks that the components of a program fit together, and describes
// them: as a diagram in Mermaid and as a document of AsyncAPI.
package topology
