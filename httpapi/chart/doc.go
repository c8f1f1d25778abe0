// Package chart draws the prices of a symbol as a picture, SVG or PNG.
//
// The same picture is on the dashboard, in documents and in chats. Prices are exact
// decimals until they become pixels here.
package chart
