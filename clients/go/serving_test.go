package creditclient_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"example.com/credit-service-client"
	"example.com/credit-service-client/creditpb"
)

// quick has short pauses, so that many attempts take no time.
var quick = creditclient.Patience{
	GiveUp: time.Minute, CallTimeout: time.Minute, FirstPause: time.Millisecond, LongestPause: 5 * time.Millisecond,
}

// attempt is a call as the server saw it.
type attempt struct {
	requestID, token string
	context          context.Context
}

// service answers with what a test decides, and keeps every attempt.
type service struct {
	creditpb.UnimplementedCreditServiceServer
	ingestions  ingestions
	connections connections
	address     string
	stop        func()
	// outcome of the attempt with this number, from 1; nil for a response.
	outcome  func(number int, ctx context.Context) error
	message  string
	lists    func(request *creditpb.ListLoansRequest) *creditpb.ListLoansResponse
	watch    func(number int, stream watchStream) error
	mutex    sync.Mutex
	attempts []attempt
	watched  []*creditpb.WatchCreditEventsRequest
	// received gets the ids of events at the client, if it is set.
	received chan int64
}

func (s *service) answer(ctx context.Context, requestID string) error {
	headers, _ := metadata.FromIncomingContext(ctx)
	token := ""
	if values := headers.Get("authorization"); len(values) > 0 {
		token = values[0]
	}
	s.mutex.Lock()
	s.attempts = append(s.attempts, attempt{requestID, token, ctx})
	number := len(s.attempts)
	s.mutex.Unlock()
	if s.outcome == nil {
		return nil
	}
	return s.outcome(number, ctx)
}

func (s *service) seen() []attempt {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return append([]attempt(nil), s.attempts...)
}

func (s *service) CreateLoan(ctx context.Context, request *creditpb.CreateLoanRequest) (*creditpb.CreateLoanResponse, error) {
	return &creditpb.CreateLoanResponse{Approved: true, Message: s.message}, s.answer(ctx, request.RequestId)
}

func (s *service) GetCustomer(ctx context.Context, _ *creditpb.GetCustomerRequest) (*creditpb.GetCustomerResponse, error) {
	return &creditpb.GetCustomerResponse{}, s.answer(ctx, "")
}

func (s *service) ListLoans(ctx context.Context, request *creditpb.ListLoansRequest) (*creditpb.ListLoansResponse, error) {
	if err := s.answer(ctx, ""); err != nil {
		return nil, err
	}
	return s.lists(request), nil
}

// serve runs the service until the end of the test; without a configuration in plaintext.
func serve(t *testing.T, s *service, secured *tls.Config) *service {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var options []grpc.ServerOption
	if secured != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(secured)))
	}
	server := grpc.NewServer(options...)
	creditpb.RegisterCreditServiceServer(server, s)
	creditpb.RegisterIngestionServiceServer(server, &s.ingestions)
	s.connections.Listener = listener
	s.ingestions.cut = s.connections.cut
	go server.Serve(&s.connections)
	t.Cleanup(server.Stop)
	s.stop, s.address = server.Stop, listener.Addr().String()
	return s
}

// connections of a server, which can be cut like those through a network that fails.
type connections struct {
	net.Listener
	mutex sync.Mutex
	open  []net.Conn
}

func (c *connections) Accept() (net.Conn, error) {
	connection, err := c.Listener.Accept()
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.open = append(c.open, connection)
	return connection, err
}

func (c *connections) cut() {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for _, each := range c.open {
		each.Close()
	}
	c.open = nil
}

func dial(t *testing.T, address string, options creditclient.Options) *creditclient.Client {
	t.Helper()
	client, err := creditclient.Dial(address, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// failing ends the first attempts with an error.
func failing(attempts int, err error) func(int, context.Context) error {
	return func(number int, _ context.Context) error {
		if number <= attempts {
			return err
		}
		return nil
	}
}

func refused(t *testing.T, code codes.Code, details ...protoadapt.MessageV1) error {
	t.Helper()
	s, err := status.New(code, "not now").WithDetails(details...)
	if err != nil {
		t.Fatal(err)
	}
	return s.Err()
}

// authority issues certificates for 127.0.0.1 into a folder.
type authority struct {
	folder      string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pool        *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{folder: t.TempDir(), pool: x509.NewCertPool()}
	a.certificate, a.key = a.issue(t, "ca", true)
	a.pool.AddCert(a.certificate)
	a.issue(t, "server", false)
	a.issue(t, "client", false)
	return a
}

func (a *authority) file(name string) string { return filepath.Join(a.folder, name) }

func (a *authority) pair(t *testing.T, name string) tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(a.file(name+".pem"), a.file(name+".key"))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// issue writes NAME.pem and NAME.key.
func (a *authority) issue(t *testing.T, name string, isCA bool) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	check(err)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: isCA, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	parent, signer := a.certificate, a.key
	if isCA {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	check(err)
	encoded, err := x509.MarshalECPrivateKey(key)
	check(err)
	write := func(file, kind string, content []byte) {
		check(os.WriteFile(a.file(file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600))
	}
	write(name+".pem", "CERTIFICATE", der)
	write(name+".key", "EC PRIVATE KEY", encoded)
	certificate, err := x509.ParseCertificate(der)
	check(err)
	return certificate, key
}
