package declared

import (
	"errors"
	"slices"
	"strings"
)

// Places of the key. A service that wants two takes them as one setting, ID:SECRET.
const (
	keyIDPlace     = "key_id"
	keySecretPlace = "key_secret"
)

var keyPlaces = []string{keyPlace, keyIDPlace, keySecretPlace}

func (t template) hasKey() bool { return slices.ContainsFunc(keyPlaces, t.has) }

func (t template) hasPair() bool { return t.has(keyIDPlace) || t.has(keySecretPlace) }

// keyValues are what is filled in for a key.
func keyValues(key string) map[string]string {
	id, secret, _ := strings.Cut(key, ":")
	return map[string]string{keyPlace: key, keyIDPlace: id, keySecretPlace: secret}
}

// shownKey stands for the key where people see what is sent.
func shownKey() map[string]string {
	shown := map[string]string{}
	for _, place := range keyPlaces {
		shown[place] = "{" + place + "}"
	}
	return shown
}

// checkKey refuses a key that the definition cannot take apart. The error does not have it.
func (d *Definition) checkKey(key string) error {
	id, secret, isPair := strings.Cut(key, ":")
	if key != "" && d.wantsPair() && (!isPair || id == "" || secret == "") {
		return errors.New("api_key: want ID:SECRET, the two keys of the service with a colon between them")
	}
	return nil
}

// secretsOf are the texts that nothing that is kept may repeat.
func (d *Definition) secretsOf(key string) []string {
	switch {
	case key == "":
		return nil
	case d.wantsPair():
		return []string{key, keyValues(key)[keySecretPlace]}
	}
	return []string{key}
}

// keyed are all templates that may hold the key.
func (d *Definition) keyed() []template {
	all := slices.Clone(d.request.path)
	for _, t := range d.request.query {
		all = append(all, t)
	}
	for _, t := range d.headers {
		all = append(all, t)
	}
	return all
}

// wantsPair says that the definition wants the two parts of a key.
func (d *Definition) wantsPair() bool {
	return slices.ContainsFunc(d.keyed(), template.hasPair) || (d.stream != nil && slices.ContainsFunc(d.stream.keyed(), template.hasPair))
}

// NeedsKey says that requests hold a key.
func (d *Definition) NeedsKey() bool { return slices.ContainsFunc(d.keyed(), template.hasKey) }
