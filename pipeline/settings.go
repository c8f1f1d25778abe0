package pipeline

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/go-viper/mapstructure/v2"

	"github.com/pricemill/pricemill/schema/names"
)

// ErrSettings is wrapped where the settings of a module are wrong.
var ErrSettings = errors.New("wrong settings")

// Decode reads the settings into the struct that into points to, which holds
// the defaults. A key that the struct does not have is an error that names the
// nearest one it has.
func (e Env) Decode(into any) error {
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		WeaklyTypedInput: true, Result: into,
		// A list would be written over the elements of the default, which others
		// share.
		ZeroFields: true,
		DecodeHook: mapstructure.ComposeDecodeHookFunc(
			mapstructure.StringToTimeDurationHookFunc(), mapstructure.StringToWeakSliceHookFunc(",")),
	})
	if err != nil {
		return fmt.Errorf("preparing to read settings: %w", err)
	}
	var errs []error
	if err := decoder.Decode(e.Settings); err != nil {
		errs = append(errs, fmt.Errorf("%w: %w", ErrSettings, err))
	}
	known := settingNames(reflect.Indirect(reflect.ValueOf(into)).Interface())
	for _, key := range slices.Sorted(maps.Keys(e.Settings)) {
		// As mapstructure finds the field.
		if slices.ContainsFunc(known, func(name string) bool { return strings.EqualFold(name, key) }) {
			continue
		}
		if len(known) == 0 {
			errs = append(errs, fmt.Errorf("%w: %q: there are no settings here", ErrSettings, key))
			continue
		}
		errs = append(errs, fmt.Errorf("%w: there is no setting %q; did you mean %q?", ErrSettings, key, names.Nearest(key, known)))
	}
	return errors.Join(errs...)
}

// Setting is one setting of a module, for people.
type Setting struct {
	Name    string `json:"name"`
	Type    string `json:"type"`
	Default string `json:"default"`
	Doc     string `json:"doc"`
}

// DescribeSettings lists the settings of a module by its struct of defaults.
func DescribeSettings(defaults any) []Setting {
	var all []Setting
	eachSetting(defaults, func(name string, field reflect.StructField, value reflect.Value) {
		text := fmt.Sprint(value.Interface())
		if value.Kind() == reflect.Slice {
			text = strings.ReplaceAll(strings.Trim(text, "[]"), " ", ",")
		}
		all = append(all, Setting{name, field.Type.String(), text, field.Tag.Get("doc")})
	})
	return all
}

// settingNames are the names of the settings in a struct.
func settingNames(settings any) []string {
	var names []string
	eachSetting(settings, func(name string, _ reflect.StructField, _ reflect.Value) { names = append(names, name) })
	return names
}

func eachSetting(settings any, f func(name string, field reflect.StructField, value reflect.Value)) {
	value := reflect.ValueOf(settings)
	if value.Kind() != reflect.Struct {
		return
	}
	for i := range value.NumField() {
		field := value.Type().Field(i)
		if !field.IsExported() {
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("mapstructure"), ",")
		if name == "" {
			name = strings.ToLower(field.Name)
		}
		f(name, field, value.Field(i))
	}
}
