package redis

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// Address says where Redis is. It is not to be shown: it may hold a password.
type Address struct {
	hostPort           string
	username, password string
	db                 int
	tls                *tls.Config
}

// String is the address without user and password.
func (a Address) String() string { return a.hostPort }

// maxDB is the highest number of a database of Redis.
const maxDB = 65535

// ParseURL reads redis://user:password@host:port/number, or rediss:// for TLS. Its errors
// show no part of the URL but the scheme.
func ParseURL(text string) (Address, error) {
	u, err := url.Parse(text)
	if err != nil {
		return Address{}, errors.New("not a URL")
	}
	var a Address
	switch u.Scheme {
	case "redis":
	case "rediss":
		a.tls = &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
	case "":
		return Address{}, errors.New("not a URL; use redis://host:6379, or rediss:// for TLS")
	default:
		return Address{}, fmt.Errorf("there is no Redis at %q; use redis://, or rediss:// for TLS", u.Scheme)
	}
	if u.Hostname() == "" {
		return Address{}, errors.New("the host is missing")
	}
	port := u.Port()
	if port == "" {
		port = "6379"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return Address{}, errors.New("the port is not within 1 and 65535")
	}
	a.hostPort = net.JoinHostPort(u.Hostname(), port)
	if number := strings.TrimPrefix(u.Path, "/"); number != "" {
		if a.db, err = strconv.Atoi(number); err != nil || a.db < 0 || a.db > maxDB {
			return Address{}, errors.New("the path is not the number of a database")
		}
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return Address{}, errors.New("there are no parameters, and no fragment")
	}
	a.username = u.User.Username()
	a.password, _ = u.User.Password()
	return a, nil
}
