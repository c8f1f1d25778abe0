package chart

import "github.com/go-analyze/charts"

// Theme is light or dark.
type Theme string

// The themes, named as in requests.
const (
	Light Theme = "light"
	Dark  Theme = "dark"
)

// colours are those of a theme. The dashboard's style sheet has the same.
type colours struct {
	background, text, strong, faint, grid charts.Color
	up, down, price, column               charts.Color
	lines                                 []charts.Color
}

var themes = map[Theme]colours{
	Light: {
		background: hex("#ffffff"), text: hex("#5c6570"), strong: hex("#171a1f"), faint: hex("#7d8691"), grid: hex("#eceef1"),
		up: hex("#1a8766"), down: hex("#c4443a"), price: hex("#2456a6"), column: hex("#d5dae1"),
		lines: []charts.Color{hex("#b8730a"), hex("#7b4fb5"), hex("#2a8fa8"), hex("#a3447f"), hex("#5f7a1f"), hex("#6a6f78")},
	},
	Dark: {
		background: hex("#15181d"), text: hex("#9aa4b0"), strong: hex("#e8ebef"), faint: hex("#7d8794"), grid: hex("#252a31"),
		up: hex("#3bb28c"), down: hex("#e2695f"), price: hex("#7fabf0"), column: hex("#414b57"),
		lines: []charts.Color{hex("#e0a33e"), hex("#b391e6"), hex("#5fc1d8"), hex("#df83bb"), hex("#a3c25a"), hex("#a6acb5")},
	},
}

func hex(text string) charts.Color { return charts.ColorFromHex(text) }
