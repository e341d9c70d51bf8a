package creditclient_test

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"example.com/credit-service-client"
	"example.com/credit-service-client/creditpb"
)

func serviceError(t *testing.T, err error) *creditclient.ServiceError {
	t.Helper()
	var failed *creditclient.ServiceError
	if !errors.As(err, &failed) {
		t.Fatalf("not a ServiceError: %v", err)
	}
	return failed
}

// Request ids and retries.

func TestAWriteWithoutARequestIDGetsARandomOneOfItsOwn(t *testing.T) {
	service := serve(t, &service{}, nil)
	client := dial(t, service.address, creditclient.Options{})
	request := &creditpb.CreateLoanRequest{CustomerId: 7}
	for range 2 {
		if _, err := client.Credit.CreateLoan(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	seen := service.seen()
	for _, each := range seen {
		if _, err := uuid.Parse(each.requestID); err != nil {
			t.Errorf("request id %q: %v", each.requestID, err)
		}
	}
	if seen[0].requestID == seen[1].requestID {
		t.Error("two calls have the same request id")
	}
	if request.RequestId != "" {
		t.Error("the caller's request was changed")
	}
}

func TestAGivenRequestIDIsKept(t *testing.T) {
	service := serve(t, &service{}, nil)
	client := dial(t, service.address, creditclient.Options{})
	id := uuid.NewString()
	if _, err := client.Credit.CreateLoan(t.Context(), &creditpb.CreateLoanRequest{RequestId: id}); err != nil {
		t.Fatal(err)
	}
	if got := service.seen()[0].requestID; got != id {
		t.Errorf("sent %q as %q", id, got)
	}
}

func TestEveryRepeatCarriesTheSameRequestID(t *testing.T) {
	for _, code := range []codes.Code{
		codes.Aborted, codes.ResourceExhausted, codes.Unavailable, codes.Canceled, codes.DeadlineExceeded,
	} {
		t.Run(code.String(), func(t *testing.T) {
			// More failures than the service config repeats: 5 attempts of UNAVAILABLE and CANCELLED.
			service := serve(t, &service{outcome: failing(6, refused(t, code))}, nil)
			client := dial(t, service.address, creditclient.Options{Patience: quick})
			answer, err := client.Credit.CreateLoan(t.Context(), &creditpb.CreateLoanRequest{CustomerId: 7})
			if err != nil || !answer.Approved {
				t.Fatal(answer, err)
			}
			seen := service.seen()
			if len(seen) != 7 {
				t.Errorf("%d attempts", len(seen))
			}
			for _, each := range seen {
				if each.requestID == "" || each.requestID != seen[0].requestID {
					t.Errorf("request ids %q and %q", seen[0].requestID, each.requestID)
				}
			}
		})
	}
}

func TestARejectionIsNotRepeated(t *testing.T) {
	for _, code := range []codes.Code{
		codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition,
		codes.PermissionDenied, codes.Unauthenticated, codes.Internal,
	} {
		service := serve(t, &service{outcome: failing(1, refused(t, code))}, nil)
		client := dial(t, service.address, creditclient.Options{Patience: quick})
		_, err := client.Credit.CreateLoan(t.Context(), &creditpb.CreateLoanRequest{})
		if failed := serviceError(t, err); failed.Code != code || len(service.seen()) != 1 {
			t.Errorf("%v after %d attempts", failed, len(service.seen()))
		}
	}
}

func TestTheConnectionUsesTheServiceConfig(t *testing.T) {
	// The client's own repeat would come too late.
	patience := creditclient.Patience{GiveUp: 20 * time.Second, FirstPause: time.Hour, LongestPause: time.Hour}
	service := serve(t, &service{outcome: failing(1, refused(t, codes.Unavailable))}, nil)
	client := dial(t, service.address, creditclient.Options{Patience: patience})
	if _, err := client.Credit.GetCustomer(t.Context(), &creditpb.GetCustomerRequest{}); err != nil {
		t.Error(err)
	}
}

// Deadlines.

func TestAnAttemptWithoutAnAnswerIsRepeated(t *testing.T) {
	silent := func(number int, ctx context.Context) error {
		if number == 1 {
			<-ctx.Done()
		}
		return ctx.Err()
	}
	service := serve(t, &service{outcome: silent}, nil)
	patience := quick
	patience.CallTimeout, patience.GiveUp = 300*time.Millisecond, 10*time.Second
	client := dial(t, service.address, creditclient.Options{Patience: patience})
	if _, err := client.Credit.CreateLoan(t.Context(), &creditpb.CreateLoanRequest{}); err != nil {
		t.Fatal(err)
	}
	seen := service.seen()
	if len(seen) < 2 || seen[0].requestID != seen[len(seen)-1].requestID {
		t.Errorf("%d attempts", len(seen))
	}
}

func TestEveryAttemptHasADeadline(t *testing.T) {
	service := serve(t, &service{}, nil)
	client := dial(t, service.address, creditclient.Options{})
	if _, err := client.Credit.GetCustomer(t.Context(), &creditpb.GetCustomerRequest{}); err != nil {
		t.Fatal(err)
	}
	end, limited := service.seen()[0].context.Deadline()
	if !limited || time.Until(end) > 10*time.Second {
		t.Errorf("deadline %v, %v", end, limited)
	}
}

func TestACallWithoutADeadlineIsGivenUp(t *testing.T) {
	const enough = 2_000
	service := serve(t, &service{outcome: failing(enough, refused(t, codes.Aborted))}, nil)
	patience := quick
	patience.GiveUp = 200 * time.Millisecond
	client := dial(t, service.address, creditclient.Options{Patience: patience})
	_, err := client.Credit.GetCustomer(t.Context(), &creditpb.GetCustomerRequest{})
	serviceError(t, err)
	if count := len(service.seen()); count == enough+1 {
		t.Errorf("%d attempts", count)
	}
}

func TestACallWithADeadlineIsRepeatedUntilThen(t *testing.T) {
	service := serve(t, &service{outcome: failing(20, refused(t, codes.Aborted))}, nil)
	patience := quick
	patience.GiveUp = time.Nanosecond
	client := dial(t, service.address, creditclient.Options{Patience: patience})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := client.Credit.GetCustomer(ctx, &creditpb.GetCustomerRequest{}); err != nil {
		t.Error(err)
	}
}

func TestACancelledCallIsNotRepeated(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	service := serve(t, &service{outcome: func(int, context.Context) error {
		cancel()
		return refused(t, codes.Aborted)
	}}, nil)
	client := dial(t, service.address, creditclient.Options{Patience: quick})
	_, err := client.Credit.GetCustomer(ctx, &creditpb.GetCustomerRequest{})
	serviceError(t, err)
	if count := len(service.seen()); count != 1 {
		t.Errorf("%d attempts", count)
	}
}

func TestARetryDelayIsKept(t *testing.T) {
	busy := refused(t, codes.ResourceExhausted, &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Hour)})
	for _, each := range []struct {
		longestPause time.Duration
		attempts     int
	}{{time.Hour, 1}, {5 * time.Millisecond, 2}} {
		service := serve(t, &service{outcome: failing(1, busy)}, nil)
		patience := quick
		patience.LongestPause = each.longestPause
		client := dial(t, service.address, creditclient.Options{Patience: patience})
		_, err := client.Credit.GetCustomer(t.Context(), &creditpb.GetCustomerRequest{})
		if count := len(service.seen()); count != each.attempts || (err == nil) != (count == 2) {
			t.Errorf("longest pause %v: %d attempts, %v", each.longestPause, count, err)
		}
	}
}

// TLS and tokens.

func TestMutualTLSPresentsTheClientsCertificate(t *testing.T) {
	authority := newAuthority(t)
	service := serve(t, &service{}, &tls.Config{
		Certificates: []tls.Certificate{authority.pair(t, "server")},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    authority.pool,
	})
	patience := quick
	patience.GiveUp = time.Second
	options := creditclient.Options{CA: authority.file("ca.pem"), Patience: patience}
	without := dial(t, service.address, options)
	_, err := without.Credit.GetCustomer(t.Context(), &creditpb.GetCustomerRequest{})
	serviceError(t, err)

	options.Patience = quick
	options.Certificate, options.PrivateKey = authority.file("client.pem"), authority.file("client.key")
	with := dial(t, service.address, options)
	if _, err := with.Credit.GetCustomer(t.Context(), &creditpb.GetCustomerRequest{}); err != nil {
		t.Error(err)
	}
	if count := len(service.seen()); count != 1 {
		t.Errorf("%d calls reached the service", count)
	}
}

func TestAServerOfAnotherAuthorityIsNotTrusted(t *testing.T) {
	service := serve(t, &service{}, &tls.Config{Certificates: []tls.Certificate{newAuthority(t).pair(t, "server")}})
	patience := quick
	patience.GiveUp = time.Second
	client := dial(t, service.address, creditclient.Options{CA: newAuthority(t).file("ca.pem"), Patience: patience})
	_, err := client.Credit.GetCustomer(t.Context(), &creditpb.GetCustomerRequest{})
	serviceError(t, err)
	if count := len(service.seen()); count != 0 {
		t.Errorf("%d calls reached the service", count)
	}
}

func TestUnusableOptionsAreRejected(t *testing.T) {
	authority := newAuthority(t)
	ca, certificate := authority.file("ca.pem"), authority.file("client.pem")
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, each := range map[string]struct {
		address string
		options creditclient.Options
		problem string
	}{
		"token in plaintext":    {"192.0.2.1:50051", creditclient.Options{TokenFile: token}, "a token needs TLS"},
		"certificate alone":     {"127.0.0.1:1", creditclient.Options{Certificate: certificate}, "needs CA"},
		"key alone":             {"127.0.0.1:1", creditclient.Options{PrivateKey: authority.file("client.key")}, "needs CA"},
		"certificate, no key":   {"127.0.0.1:1", creditclient.Options{CA: ca, Certificate: certificate}, "no such file"},
		"no authority":          {"127.0.0.1:1", creditclient.Options{CA: token}, "no certificate in PEM"},
		"missing authority":     {"127.0.0.1:1", creditclient.Options{CA: token + ".pem"}, "no such file"},
		"host that looks local": {"localhost.example:1", creditclient.Options{TokenFile: token}, "a token needs TLS"},
	} {
		if _, err := creditclient.Dial(each.address, each.options); err == nil || !strings.Contains(err.Error(), each.problem) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, address := range []string{"localhost:1", "127.0.0.1:1", "127.0.0.2:1", "[::1]:1"} {
		client, err := creditclient.Dial(address, creditclient.Options{TokenFile: token})
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		client.Close()
	}
}

func TestANewTokenIsUsedAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(content string) {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	service := serve(t, &service{}, nil)
	client := dial(t, service.address, creditclient.Options{TokenFile: file, Patience: quick})
	call := func() error {
		_, err := client.Credit.GetCustomer(t.Context(), &creditpb.GetCustomerRequest{})
		return err
	}
	if err := call(); err == nil {
		t.Error("a call without a token was sent")
	}
	write("first\n")
	if err := call(); err != nil {
		t.Fatal(err)
	}
	write("second\n")
	if err := call(); err != nil {
		t.Fatal(err)
	}
	// While the file is replaced, it is missing for a moment.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := call(); err != nil {
		t.Fatal(err)
	}
	var tokens []string
	for _, each := range service.seen() {
		tokens = append(tokens, each.token)
	}
	if want := []string{"Bearer first", "Bearer second", "Bearer second"}; !slices.Equal(tokens, want) {
		t.Errorf("tokens %q", tokens)
	}
}

func TestARepeatCarriesTheNewToken(t *testing.T) {
	authority := newAuthority(t)
	file := authority.file("token")
	service := &service{outcome: func(number int, _ context.Context) error {
		if number > 1 {
			return nil
		}
		if err := os.WriteFile(file, []byte("second"), 0o600); err != nil {
			return err
		}
		return refused(t, codes.Aborted)
	}}
	serve(t, service, &tls.Config{Certificates: []tls.Certificate{authority.pair(t, "server")}})
	if err := os.WriteFile(file, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	client := dial(t, service.address, creditclient.Options{CA: authority.file("ca.pem"), TokenFile: file, Patience: quick})
	if _, err := client.Credit.CreateLoan(t.Context(), &creditpb.CreateLoanRequest{}); err != nil {
		t.Fatal(err)
	}
	seen := service.seen()
	if seen[0].token != "Bearer first" || seen[1].token != "Bearer second" || seen[0].requestID != seen[1].requestID {
		t.Errorf("%q, then %q", seen[0].token, seen[1].token)
	}
}

// Errors and lists.

func TestAServiceErrorHasTheDetailsOfTheStatus(t *testing.T) {
	service := serve(t, &service{outcome: failing(1, refused(t, codes.InvalidArgument,
		&errdetails.ErrorInfo{Reason: "INVALID_FIELD", Domain: "credit_service", Metadata: map[string]string{"count": "1"}},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: "tenure_months", Description: "1 to 480"},
		}},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(1500 * time.Millisecond)},
	))}, nil)
	client := dial(t, service.address, creditclient.Options{})
	_, err := client.Credit.CreateLoan(t.Context(), &creditpb.CreateLoanRequest{})
	failed := serviceError(t, err)
	if failed.Reason != "INVALID_FIELD" || failed.Metadata["count"] != "1" ||
		failed.Fields["tenure_months"] != "1 to 480" || failed.RetryAfter != 1500*time.Millisecond ||
		len(failed.GRPCStatus().Details()) != 3 {
		t.Errorf("%+v", failed)
	}
	if text := failed.Error(); text != "InvalidArgument (INVALID_FIELD): not now" {
		t.Error(text)
	}
}

func TestAListIsReadToItsEnd(t *testing.T) {
	following := map[string]string{"": "second", "second": "third", "third": ""}
	service := serve(t, &service{lists: func(request *creditpb.ListLoansRequest) *creditpb.ListLoansResponse {
		loan := &creditpb.Loan{CustomerId: request.CustomerId}
		return &creditpb.ListLoansResponse{Loans: []*creditpb.Loan{loan}, NextPageToken: following[request.PageToken]}
	}}, nil)
	client := dial(t, service.address, creditclient.Options{})
	request := &creditpb.ListLoansRequest{CustomerId: 7}
	var tokens []string
	for page, err := range creditclient.Pages(t.Context(), client.Credit.ListLoans, request) {
		if err != nil {
			t.Fatal(err)
		}
		if page.Loans[0].CustomerId != 7 {
			t.Errorf("the request lost its customer: %d", page.Loans[0].CustomerId)
		}
		tokens = append(tokens, page.NextPageToken)
	}
	if want := []string{"second", "third", ""}; !slices.Equal(tokens, want) || request.PageToken != "" {
		t.Errorf("tokens %q, request %q", tokens, request.PageToken)
	}
}

func TestAListEndsAfterAnError(t *testing.T) {
	service := serve(t, &service{outcome: failing(5, refused(t, codes.NotFound))}, nil)
	client := dial(t, service.address, creditclient.Options{})
	failures := 0
	for _, err := range creditclient.Pages(t.Context(), client.Credit.ListLoans, &creditpb.ListLoansRequest{}) {
		serviceError(t, err)
		failures++
	}
	if failures != 1 {
		t.Errorf("%d failures", failures)
	}
}

func TestAResponseMayBeLargerThanGRPCAcceptsByItself(t *testing.T) {
	service := serve(t, &service{message: strings.Repeat("a", 5<<20)}, nil)
	client := dial(t, service.address, creditclient.Options{})
	answer, err := client.Credit.CreateLoan(t.Context(), &creditpb.CreateLoanRequest{})
	if err != nil || answer.Message != service.message {
		t.Error(err)
	}
}
