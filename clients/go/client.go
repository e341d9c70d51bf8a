// Package creditclient calls the credit service: one connection with the contract's retry policy, request
// ids, TLS, tokens, lists, row streams and events. The messages and methods of the contract are in the
// package creditpb.
package creditclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"errors"
	"fmt"
	"iter"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"example.com/credit-service-client/creditpb"
)

// ServiceConfig is the retry policy that clients of the service use, as a gRPC service config in JSON.
//
//go:embed service-config.json
var ServiceConfig string

const maxResponseBytes = 16 << 20

// Options say how to reach the service. The zero value is plaintext without a token.
type Options struct {
	// CA is a PEM file of the trusted authorities; "" with TLS unset means plaintext.
	CA string
	// Certificate and PrivateKey are PEM files of the client's own certificate, for mutual TLS.
	Certificate, PrivateKey string
	// TokenFile has a bearer token. It is read for every call, so that a new token is used at once.
	TokenFile string
	// Patience limits attempts; zero fields have their defaults.
	Patience Patience
}

// Client has the methods of the contract. It is safe for concurrent use; share one.
//
// A unary call returns its response or a *ServiceError. It gives a write without a request id a random one,
// and repeats a call that found no server or a busy one, always with the same id, until the deadline of
// its context, or for Patience.GiveUp.
type Client struct {
	Credit     creditpb.CreditServiceClient
	Scorecards creditpb.ScorecardServiceClient
	Ingestions creditpb.IngestionServiceClient
	Operations creditpb.OperationsServiceClient
	connection *grpc.ClientConn
	patience   Patience
	// The token can change between two calls.
	renewsToken bool
}

// Dial returns a client of the service at address, host:port. It connects with the first call.
//
// It returns an error for an unusable file, and for a token without TLS unless the service is on this
// machine.
func Dial(address string, options Options) (*Client, error) {
	secured, err := transport(options)
	if err != nil {
		return nil, err
	}
	patience := options.Patience.withDefaults()
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(secured),
		grpc.WithDefaultServiceConfig(ServiceConfig),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxResponseBytes)),
		grpc.WithChainUnaryInterceptor(patience.untilAnswered),
		// Reconnect within a second of the server's return, not after two minutes.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	}
	if options.TokenFile != "" {
		if options.CA == "" && !isLocal(address) {
			return nil, fmt.Errorf("a token needs TLS: anyone between here and %s could read it", address)
		}
		token := &tokenFile{path: options.TokenFile, secure: options.CA != ""}
		dial = append(dial, grpc.WithPerRPCCredentials(token))
	}
	connection, err := grpc.NewClient(address, dial...)
	if err != nil {
		return nil, err
	}
	return &Client{
		Credit:     creditpb.NewCreditServiceClient(connection),
		Scorecards: creditpb.NewScorecardServiceClient(connection),
		Ingestions: creditpb.NewIngestionServiceClient(connection),
		Operations: creditpb.NewOperationsServiceClient(connection),
		connection: connection,

		patience:    patience,
		renewsToken: options.TokenFile != "",
	}, nil
}

// Connection returns the gRPC connection, for example for the standard health service.
func (c *Client) Connection() *grpc.ClientConn { return c.connection }

// Close closes the connection; calls in progress end with CANCELLED.
func (c *Client) Close() error { return c.connection.Close() }

func transport(options Options) (credentials.TransportCredentials, error) {
	if options.CA == "" {
		if options.Certificate != "" || options.PrivateKey != "" {
			return nil, errors.New("a client certificate needs CA, the authorities to trust")
		}
		return insecure.NewCredentials(), nil
	}
	pem, err := os.ReadFile(options.CA)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate in PEM", options.CA)
	}
	if options.Certificate != "" || options.PrivateKey != "" {
		own, err := tls.LoadX509KeyPair(options.Certificate, options.PrivateKey)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{own}
	}
	return credentials.NewTLS(config), nil
}

func isLocal(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// tokenFile sends the token of a file, which is read for each call. While the file is missing, as in the
// moment in which it is replaced, the last token is used.
type tokenFile struct {
	path   string
	secure bool
	mutex  sync.Mutex
	last   string
}

func (t *tokenFile) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	content, err := os.ReadFile(t.path)
	if err == nil {
		t.last = strings.TrimSpace(string(content))
	} else if !errors.Is(err, os.ErrNotExist) || t.last == "" {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + t.last}, nil
}

func (t *tokenFile) RequireTransportSecurity() bool { return t.secure }

// Page is a response of a list.
type Page interface{ GetNextPageToken() string }

// Pages yields the pages of a list, which is read as far as the caller iterates. It ends after an error.
//
//	for page, err := range creditclient.Pages(ctx, client.Credit.ListLoans, request) { … }
func Pages[Request proto.Message, Response Page](
	ctx context.Context,
	list func(context.Context, Request, ...grpc.CallOption) (Response, error),
	request Request,
) iter.Seq2[Response, error] {
	return func(yield func(Response, error) bool) {
		following := proto.Clone(request).(Request)
		message := following.ProtoReflect()
		token := message.Descriptor().Fields().ByName("page_token")
		for {
			page, err := list(ctx, following)
			if !yield(page, err) || err != nil || page.GetNextPageToken() == "" {
				return
			}
			message.Set(token, stringValue(page.GetNextPageToken()))
		}
	}
}
