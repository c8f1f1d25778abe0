package schema

import _ "embed"

//go:embed openapi.json
var openAPI string

// OpenAPI is the OpenAPI 3.1 document of the REST API, as JSON. Each call
// returns a copy.
func OpenAPI() []byte { return []byte(openAPI) }
