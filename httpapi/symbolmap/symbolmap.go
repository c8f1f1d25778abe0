// Package symbolmap says which symbols of which providers are one instrument: the same
// thing, in the same currency.
package symbolmap

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pricemill/pricemill/schema"
)

// Bounds of a map.
const (
	// MaxFile is the largest file, in bytes.
	MaxFile = 4 << 20
	// MaxInstruments is how many instruments there may be.
	MaxInstruments = 10_000
	// MaxMembers is how many members an instrument may have.
	MaxMembers = 32
)

// Member is a symbol of a provider.
type Member struct {
	Provider schema.Provider
	Symbol   schema.Symbol
}

func (m Member) String() string { return string(m.Provider) + ":" + string(m.Symbol) }

// Instrument is what several symbols stand for.
type Instrument struct {
	// Name is in upper case.
	Name schema.Symbol
	// Currency and Class are for clients; either may be empty.
	Currency, Class string
	// Members are in the order of the file.
	Members []Member
}

// Map is the instruments there are. A nil one has none. It is not changed after it was
// made, so any number of goroutines may read it.
type Map struct {
	instruments []Instrument
	byName      map[schema.Symbol]int
	bySymbol    map[schema.Symbol][]int // of members, in upper case
	byMember    map[Member]int
}

// Errors of Find.
var (
	// ErrNone says that no instrument has the name, nor a member with the symbol.
	ErrNone = errors.New("no instrument of the symbol map")
	// ErrAmbiguous says that members of several instruments have the symbol.
	ErrAmbiguous = errors.New("members of several instruments have this symbol")
)

// Len is how many instruments there are.
func (m *Map) Len() int {
	if m == nil {
		return 0
	}
	return len(m.instruments)
}

// All are the instruments in the order of the file. Do not change them.
func (m *Map) All() []Instrument {
	if m == nil {
		return nil
	}
	return m.instruments
}

// Find returns the instrument of a name, or the one that has a member with a symbol. Case
// does not count.
func (m *Map) Find(asked schema.Symbol) (Instrument, error) {
	if m == nil {
		return Instrument{}, ErrNone
	}
	folded := asked.Fold()
	if at, found := m.byName[folded]; found {
		return m.instruments[at], nil
	}
	switch of := m.bySymbol[folded]; len(of) {
	case 0:
		return Instrument{}, ErrNone
	case 1:
		return m.instruments[of[0]], nil
	default:
		names := make([]string, len(of))
		for i, at := range of {
			names[i] = string(m.instruments[at].Name)
		}
		slices.Sort(names)
		return Instrument{}, fmt.Errorf("%w: %s", ErrAmbiguous, strings.Join(names, ", "))
	}
}

// Of is the name of the instrument that a symbol of a provider is a member of; empty for
// none.
func (m *Map) Of(provider schema.Provider, symbol schema.Symbol) schema.Symbol {
	if m == nil {
		return ""
	}
	at, found := m.byMember[Member{provider, symbol}]
	if !found {
		return ""
	}
	return m.instruments[at].Name
}

// New makes a map. Its error names everything that is wrong.
func New(instruments []Instrument) (*Map, error) {
	m := &Map{byName: map[schema.Symbol]int{}, bySymbol: map[schema.Symbol][]int{}, byMember: map[Member]int{}}
	var errs []error
	if len(instruments) > MaxInstruments {
		return nil, fmt.Errorf("%d instruments: at most %d are allowed", len(instruments), MaxInstruments)
	}
	for i, instrument := range instruments {
		instrument.Name = instrument.Name.Fold()
		if _, twice := m.byName[instrument.Name]; twice {
			errs = append(errs, fmt.Errorf("instrument %s: there are two of this name", instrument.Name))
			continue
		}
		m.byName[instrument.Name] = i
		if len(instrument.Members) == 0 || len(instrument.Members) > MaxMembers {
			errs = append(errs, fmt.Errorf("instrument %s: it has %d members, and may have 1 to %d", instrument.Name, len(instrument.Members), MaxMembers))
		}
		for _, member := range instrument.Members {
			if other, twice := m.byMember[member]; twice {
				errs = append(errs, m.memberTwice(member, instrument.Name, other, i))
				continue
			}
			m.byMember[member] = i
			folded := member.Symbol.Fold()
			if of := m.bySymbol[folded]; !slices.Contains(of, i) {
				m.bySymbol[folded] = append(of, i)
			}
		}
		m.instruments = append(m.instruments, instrument)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if err := m.checkNames(); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Map) memberTwice(member Member, name schema.Symbol, other, now int) error {
	if other == now {
		return fmt.Errorf("instrument %s: it has the member %s twice", name, member)
	}
	return fmt.Errorf("instrument %s: the member %s is one of %s already", name, member, m.instruments[other].Name)
}

// checkNames refuses a name that is the symbol of another instrument's member: who asks for
// it could mean either.
func (m *Map) checkNames() error {
	var errs []error
	for i, instrument := range m.instruments {
		for _, other := range m.bySymbol[instrument.Name] {
			if other != i {
				errs = append(errs, fmt.Errorf("instrument %s: a member of %s has this symbol; choose another name", instrument.Name, m.instruments[other].Name))
			}
		}
	}
	return errors.Join(errs...)
}
