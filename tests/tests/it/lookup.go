// Prints what Go's own resolver finds: addresses of a host, services, or the name of an address.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"sort"
)

func main() {
	resolver := net.Resolver{PreferGo: true}
	var found []string
	var err error
	switch kind, name := os.Args[1], os.Args[2]; kind {
	case "host":
		found, err = resolver.LookupHost(context.Background(), name)
	case "srv":
		var services []*net.SRV
		_, services, err = resolver.LookupSRV(context.Background(), "", "", name)
		for _, service := range services {
			found = append(found, fmt.Sprintf("%s:%d", service.Target, service.Port))
		}
	case "address":
		found, err = resolver.LookupAddr(context.Background(), name)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	sort.Strings(found)
	for _, one := range found {
		fmt.Println(one)
	}
}
