package chart

// Short is short.
var Short = short
