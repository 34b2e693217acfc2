// A gRPC client of xds:/// targets, or with an address as its argument an xDS-enabled server, as tests talk to them.
//
// The client reads a JSON document a line and answers with one, as tests/support/grpc_client.py does. The server answers
// every method that reaches it with "served METHOD".
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	xdscreds "google.golang.org/grpc/credentials/xds"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/xds"
)

// raw passes the bytes of messages through.
type raw struct{}

func (raw) Name() string { return "raw" }

func (raw) Marshal(message any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*message.(*[]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, message any) error {
	*message.(*[]byte) = data.Materialize()
	return nil
}

type order struct {
	Target    string      `json:"target"`
	Method    string      `json:"method"`
	Count     int         `json:"count"`
	Timeout   float64     `json:"timeout"`
	Metadata  [][2]string `json:"metadata"`
	Options   [][2]string `json:"options"`
	Bootstrap string      `json:"bootstrap"`
	Close     bool        `json:"close"`
}

type answer struct {
	Code    string  `json:"code"`
	Text    string  `json:"text"`
	Seconds float64 `json:"seconds"`
}

func main() {
	var err error
	if len(os.Args) > 1 {
		err = serve(os.Args[1])
	} else {
		err = call()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func call() error {
	channels := map[string]*grpc.ClientConn{}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var told order
		if err := json.Unmarshal(lines.Bytes(), &told); err != nil {
			return err
		}
		answers := []answer{}
		if told.Close {
			for _, channel := range channels {
				channel.Close()
			}
			clear(channels)
		} else {
			key := fmt.Sprint(told.Target, told.Options)
			if channels[key] == nil {
				channel, err := open(told)
				if err != nil {
					return err
				}
				channels[key] = channel
			}
			for range max(told.Count, 1) {
				answers = append(answers, once(channels[key], told))
			}
		}
		if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
			return err
		}
	}
	return lines.Err()
}

func open(told order) (*grpc.ClientConn, error) {
	credentials, err := xdscreds.NewClientCredentials(xdscreds.ClientOptions{FallbackCreds: insecure.NewCredentials()})
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(credentials)}
	for _, option := range told.Options {
		if option[0] == "grpc.default_authority" {
			options = append(options, grpc.WithAuthority(option[1]))
		}
	}
	if told.Bootstrap != "" {
		resolver, err := xds.NewXDSResolverWithConfigForTesting([]byte(told.Bootstrap))
		if err != nil {
			return nil, err
		}
		options = append(options, grpc.WithResolvers(resolver))
	}
	return grpc.NewClient(told.Target, options...)
}

func once(channel *grpc.ClientConn, told order) answer {
	context, cancel := context.WithTimeout(context.Background(), time.Duration(told.Timeout*float64(time.Second)))
	defer cancel()
	for _, pair := range told.Metadata {
		context = metadata.AppendToOutgoingContext(context, pair[0], pair[1])
	}
	var text []byte
	began := time.Now()
	err := channel.Invoke(context, told.Method, &[]byte{}, &text, grpc.ForceCodecV2(raw{}))
	seconds := time.Since(began).Seconds()
	if err != nil {
		failed := status.Convert(err)
		return answer{name(failed.Code()), failed.Message(), seconds}
	}
	return answer{"OK", string(text), seconds}
}

// name is how Python and the specification write a code: DEADLINE_EXCEEDED, where Go says DeadlineExceeded.
func name(code codes.Code) string {
	var name strings.Builder
	for at, letter := range code.String() {
		if at > 0 && 'A' <= letter && letter <= 'Z' {
			name.WriteByte('_')
		}
		name.WriteRune(letter)
	}
	return strings.ToUpper(name.String())
}

func serve(address string) error {
	credentials, err := xdscreds.NewServerCredentials(xdscreds.ServerOptions{FallbackCreds: insecure.NewCredentials()})
	if err != nil {
		return err
	}
	answer := func(_ any, stream grpc.ServerStream) error {
		var message []byte
		if err := stream.RecvMsg(&message); err != nil {
			return err
		}
		method, _ := grpc.MethodFromServerStream(stream)
		answer := []byte("served " + method)
		return stream.SendMsg(&answer)
	}
	server, err := xds.NewGRPCServer(
		grpc.Creds(credentials), grpc.ForceServerCodecV2(raw{}), grpc.UnknownServiceHandler(answer),
	)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	return server.Serve(listener)
}
