package rest

import "net/url"

// isSegment holds for what is one step down in a path. Servers take "." and ".."
// for something else, however they are escaped.
func isSegment(text string) bool { return text != "" && text != "." && text != ".." }

// below returns the URL of a path below base.
func below(base *url.URL, query url.Values, path []string) *url.URL {
	u := *base
	escaped := base.EscapedPath()
	for _, segment := range path {
		u.Path += "/" + segment
		escaped += "/" + url.PathEscape(segment)
	}
	u.RawPath = escaped
	u.RawQuery = query.Encode()
	return &u
}
