module github.com/pricemill/pricemill/mutate

go 1.26.0
