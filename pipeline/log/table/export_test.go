package table

// For the tests outside of the package.
var (
	Checksum          = checksum
	NewLeaseThatLasts = newLease
)

const LeaseName = leaseName
