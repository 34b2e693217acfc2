// The same load assignments from go-control-plane, for the fan-out bench: it is asked over standard input, one line at
// a time, and answers one line each. Modes: "snapshot" (one SnapshotCache, all nodes share a snapshot), "linear" (a
// LinearCache); both stand behind a MuxCache. Questions: change CONTENT, settled COUNT (acknowledgements since the
// change), cpu (seconds), memory (resident bytes, after a collection), left (no stream is open).
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
)

type everybody struct{}

func (everybody) ID(*core.Node) string { return "all" }

func name(index int) string { return fmt.Sprintf("gatewayspec/bench/shop/backend-%d", index) }

func assignment(index int, content string) *endpoint.ClusterLoadAssignment {
	made := &endpoint.ClusterLoadAssignment{ClusterName: name(index)}
	for number := range 2 {
		address := &core.SocketAddress{
			Address:       fmt.Sprintf("10.0.%d.%d", index%250, number),
			PortSpecifier: &core.SocketAddress_PortValue{PortValue: 8080},
		}
		made.Endpoints = append(made.Endpoints, &endpoint.LocalityLbEndpoints{
			Locality: &core.Locality{Zone: content},
			LbEndpoints: []*endpoint.LbEndpoint{{HostIdentifier: &endpoint.LbEndpoint_Endpoint{
				Endpoint: &endpoint.Endpoint{Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: address}}},
			}}},
		})
	}
	return made
}

type content struct {
	size     int
	version  int
	all      []types.Resource
	snapshot cache.SnapshotCache
	linear   *cache.LinearCache
}

func (c *content) change(text string) error {
	c.version++
	index := c.size / 2
	c.all[index] = assignment(index, text)
	if c.linear != nil {
		return c.linear.UpdateResource(name(index), c.all[index])
	}
	resources := map[resource.Type][]types.Resource{resource.EndpointType: c.all}
	made, err := cache.NewSnapshot(strconv.Itoa(c.version), resources)
	if err != nil {
		return err
	}
	return c.snapshot.SetSnapshot(context.Background(), "all", made)
}

func cpu() float64 {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		log.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds()
}

func resident() int64 {
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		log.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	if err != nil {
		log.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

func main() {
	size, err := strconv.Atoi(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	served := &content{size: size}
	for index := range size {
		served.all = append(served.all, assignment(index, ""))
	}
	caches := map[string]cache.Cache{}
	switch os.Args[1] {
	case "snapshot":
		served.snapshot = cache.NewSnapshotCache(true, everybody{}, nil)
		caches["all"] = served.snapshot
	case "linear":
		initial := map[string]types.Resource{}
		for index, one := range served.all {
			initial[name(index)] = one
		}
		served.linear = cache.NewLinearCache(resource.EndpointType, cache.WithInitialResources(initial))
		caches["all"] = served.linear
	}
	if served.snapshot != nil {
		if err := served.change(""); err != nil {
			log.Fatal(err)
		}
	}
	mux := &cache.MuxCache{
		Classify:      func(*cache.Request) string { return "all" },
		ClassifyDelta: func(*cache.DeltaRequest) string { return "all" },
		Caches:        caches,
	}
	var acknowledged, streams atomic.Int64
	callbacks := server.CallbackFuncs{
		DeltaStreamOpenFunc:   func(context.Context, int64, string) error { streams.Add(1); return nil },
		DeltaStreamClosedFunc: func(int64, *core.Node) { streams.Add(-1) },
		StreamDeltaRequestFunc: func(_ int64, request *discovery.DeltaDiscoveryRequest) error {
			if request.GetResponseNonce() != "" {
				acknowledged.Add(1)
			}
			return nil
		},
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	served_by := grpc.NewServer(grpc.MaxConcurrentStreams(100_000), grpc.MaxRecvMsgSize(64<<20))
	discovery.RegisterAggregatedDiscoveryServiceServer(served_by, server.NewServer(context.Background(), mux, callbacks))
	go func() { log.Fatal(served_by.Serve(listener)) }()
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)

	questions := bufio.NewScanner(os.Stdin)
	for questions.Scan() {
		what, argument, _ := strings.Cut(questions.Text(), " ")
		switch what {
		case "change":
			acknowledged.Store(0)
			if err := served.change(argument); err != nil {
				log.Fatal(err)
			}
			fmt.Println("done")
		case "settled":
			wanted, err := strconv.ParseInt(argument, 10, 64)
			if err != nil {
				log.Fatal(err)
			}
			for acknowledged.Load() < wanted {
				time.Sleep(time.Millisecond)
			}
			fmt.Println("done")
		case "left":
			for streams.Load() > 0 {
				time.Sleep(10 * time.Millisecond)
			}
			fmt.Println("done")
		case "cpu":
			fmt.Println(cpu())
		case "memory":
			fmt.Println(resident())
		default:
			log.Fatalf("what is %q?", what)
		}
	}
}
