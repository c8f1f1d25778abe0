package httpapi

import "net/netip"

// clientAddress is what requests and connections are counted by. What has no
// address (a unix socket) shares the zero value.
type clientAddress struct{ netip.Prefix }

// clientOf takes the address of a connection and no other: a forwarding header
// is whatever its sender likes.
func clientOf(remote string) clientAddress {
	peer, err := netip.ParseAddrPort(remote)
	if err != nil {
		return clientAddress{}
	}
	address := peer.Addr().Unmap()
	bits := address.BitLen()
	if address.Is6() && !address.IsLoopback() {
		bits = 64 // a household's network; its addresses change at will
	}
	prefix, _ := address.Prefix(bits) // without its zone; so many bits it has
	return clientAddress{prefix}
}

func (c clientAddress) isLoopback() bool { return c.IsValid() && c.Addr().IsLoopback() }
