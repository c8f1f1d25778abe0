package csv

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pricemill/pricemill/handlers/provider/payload"
	"github.com/pricemill/pricemill/schema"
)

// numbers is how a file writes numbers.
type numbers struct {
	decimal   string // the decimal mark
	thousands string // between groups of digits; empty: none
	currency  string // a sign before or after the number; empty: none
	exact     bool   // refuses what would have to be rounded
	signed    bool   // takes prices of zero and below
}

// price reads a price, and reports whether it was rounded.
func (n numbers) price(text string) (price schema.Decimal, rounded bool, err error) {
	if price, rounded, err = n.number(text); err != nil {
		return price, false, fmt.Errorf("%s: %w", schema.CodeBadPrice, err)
	}
	if n.signed {
		return price, rounded, nil
	}
	if _, err := payload.ParsePrice(price.String()); err != nil {
		return price, false, fmt.Errorf("%w; --allow-negative takes prices of zero and below", err)
	}
	return price, rounded, nil
}

// size reads how much was traded.
func (n numbers) size(text string) (size schema.Decimal, rounded bool, err error) {
	size, rounded, err = n.number(text)
	if err == nil && size.Sign() < 0 {
		err = fmt.Errorf("size %s is negative", size)
	}
	return size, rounded, err
}

func (n numbers) number(text string) (d schema.Decimal, rounded bool, err error) {
	plain, err := n.plain(text)
	if err != nil {
		return schema.Decimal{}, false, err
	}
	d, rounded, err = schema.RoundDecimal(plain)
	switch {
	case err != nil:
		return schema.Decimal{}, false, fmt.Errorf("%w%s", err, n.advice(text))
	case rounded && n.exact:
		return schema.Decimal{}, false, fmt.Errorf("%.60q has more than %d digits after the point; without --exact it would be rounded",
			text, schema.MaxFractionDigits)
	}
	return d, rounded, nil
}

// advice says which flag reads a number that was not understood, where one may.
func (n numbers) advice(text string) string {
	switch {
	case n.decimal == "." && n.thousands == "" && strings.Contains(text, ","):
		return `: a comma is read with --decimal , where it is the decimal mark, and with --thousands , where it separates groups of digits`
	case strings.HasSuffix(text, "%"):
		return ": a percentage is no price"
	case n.currency == "" && strings.IndexFunc(text, isCurrency) >= 0:
		return ": a sign of a currency is read with --currency SIGN"
	}
	return ""
}

func isCurrency(r rune) bool { return strings.ContainsRune("$€£¥₹₽₿₩₺₫฿", r) }

// plain writes a number as schema.ParseDecimal reads it.
func (n numbers) plain(text string) (string, error) {
	text = strings.TrimSpace(text)
	sign := ""
	takeSign := func() {
		for _, minus := range []string{"-", "−"} {
			if rest, negative := strings.CutPrefix(text, minus); negative && sign == "" {
				sign, text = "-", strings.TrimSpace(rest)
			}
		}
	}
	takeSign()
	if n.currency != "" {
		text = strings.TrimPrefix(text, n.currency)
		text = strings.TrimSpace(strings.TrimSuffix(text, n.currency))
		takeSign() // $-1.50
	}
	whole, fraction, pointed := strings.Cut(text, n.decimal)
	if n.thousands != "" {
		var err error
		if whole, err = n.ungroup(whole); err != nil {
			return "", err
		}
	}
	if n.decimal != "." && strings.Contains(whole+fraction, ".") {
		return "", fmt.Errorf("%.60q has a point; the decimal mark is %q%s", text, n.decimal,
			": --thousands . reads points between groups of digits")
	}
	if !pointed {
		return sign + whole, nil
	}
	if whole == "" && fraction != "" {
		whole = "0" // .5
	}
	if whole == "+" && fraction != "" {
		whole = "+0"
	}
	if digits, exponent, _ := strings.Cut(fraction, "e"); whole != "" && digits == "" { // 5. and 5.e3
		if exponent != "" {
			return sign + whole + "e" + exponent, nil
		}
		return sign + whole, nil
	}
	return sign + whole + "." + fraction, nil
}

var errGroups = errors.New("digits are not in groups of three")

// ungroup takes out what separates groups of digits: of three, or, as in India, of
// two before the last three. Anything else may be another notation, in which the
// number would be another.
func (n numbers) ungroup(whole string) (string, error) {
	if n.thousands == " " { // also those that do not break a line
		whole = strings.NewReplacer("\u00a0", " ", "\u202f", " ").Replace(whole)
	}
	groups := strings.Split(whole, n.thousands)
	for i, group := range groups {
		first, last := i == 0, i == len(groups)-1
		digits := len(strings.TrimPrefix(group, "+"))
		if len(groups) > 1 && (first && (digits < 1 || digits > 3) || last && digits != 3 || !first && !last && digits != 2 && digits != 3) {
			return "", fmt.Errorf("reading %.60q: %w", whole, errGroups)
		}
	}
	return strings.Join(groups, ""), nil
}
