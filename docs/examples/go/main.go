// A client of the credit service: connect, book once, offer and accept, check in batches, handle errors,
// stream rows, follow events.
//
//	CREDIT_ADDRESS=127.0.0.1:50051 go run .
//
// "go run . payments CUSTOMER_ID" runs payments.go.
//
// CREDIT_SERVER_CA names a PEM file of the authorities to trust, CREDIT_TOKEN_FILE a file with a bearer
// token; replace it before the token expires. The package creditpb is generated from the
// contract with buf.gen.yaml.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/type/date"
	"google.golang.org/genproto/googleapis/type/decimal"
	"google.golang.org/genproto/googleapis/type/money"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"example.com/credit/creditpb"
)

const (
	deadline      = 5 * time.Second
	patience      = 60 * time.Second
	batchRows     = 1000
	serviceConfig = "../service-config.json"
)

// Connect.

// bearer sends the token from a file, which is read for each call; over TLS only.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := os.ReadFile(string(b))
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + strings.TrimSpace(string(token))}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// connect opens a channel with the standard retry policy.
func connect(address, ca, tokenFile string) (*grpc.ClientConn, error) {
	config, err := os.ReadFile(serviceConfig)
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{grpc.WithDefaultServiceConfig(string(config))}
	if ca == "" {
		options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))
		return grpc.NewClient(address, options...)
	}
	tls, err := credentials.NewClientTLSFromFile(ca, "")
	if err != nil {
		return nil, err
	}
	options = append(options, grpc.WithTransportCredentials(tls))
	if tokenFile != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer(tokenFile)))
	}
	return grpc.NewClient(address, options...)
}

// Handle errors.

// refused is a failed call: status and reason for the program, message and fields for people.
type refused struct {
	code       codes.Code
	reason     string
	message    string
	fields     map[string]string
	retryAfter time.Duration
}

func (r *refused) Error() string { return fmt.Sprintf("%v (%s): %s", r.code, r.reason, r.message) }

func refusal(err error) *refused {
	s := status.Convert(err)
	found := &refused{code: s.Code(), message: s.Message(), fields: map[string]string{}}
	for _, detail := range s.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			found.reason = detail.Reason
		case *errdetails.BadRequest:
			for _, each := range detail.FieldViolations {
				found.fields[each.Field] = each.Description
			}
		case *errdetails.RetryInfo:
			found.retryAfter = detail.RetryDelay.AsDuration()
		}
	}
	return found
}

// Retry until there is a response.

// worthRepeating reports whether the call may have taken effect with a lost response: retrying with
// the same request_id is safe.
func worthRepeating(code codes.Code) bool {
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted, codes.ResourceExhausted:
		return true
	}
	return false
}

// untilAnswered retries a call that is safe to retry: a read, or a write with a request_id.
func untilAnswered(ctx context.Context, call func(context.Context) error) error {
	giveUpAt := time.Now().Add(patience)
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		limited, cancel := context.WithTimeout(ctx, deadline)
		err := call(limited)
		cancel()
		if err == nil {
			return nil
		}
		found := refusal(err)
		if !worthRepeating(found.code) || ctx.Err() != nil || time.Now().After(giveUpAt) {
			return found
		}
		spread := pause/2 + time.Duration(rand.Int63n(int64(pause/2)))
		time.Sleep(max(found.retryAfter, spread))
	}
}

// Stream rows, each exactly once.

// ingest sends loans under an id that was stored before the first row was sent. After a failure, it
// continues from the service's committed_offset: no row is lost or stored twice.
func ingest(
	ctx context.Context, service creditpb.IngestionServiceClient, id string, rows []*creditpb.LoanRow,
) (*creditpb.IngestRowsResponse, error) {
	giveUpAt := time.Now().Add(patience)
	for {
		offset, err := committedOffset(ctx, service, id)
		if err != nil {
			return nil, err
		}
		response, err := send(ctx, service, id, rows, offset)
		if err == nil {
			return response, nil
		}
		found := refusal(err)
		again := worthRepeating(found.code) || found.code == codes.OutOfRange
		if !again || ctx.Err() != nil || time.Now().After(giveUpAt) {
			return nil, found
		}
		time.Sleep(max(found.retryAfter, 300*time.Millisecond))
	}
}

func committedOffset(
	ctx context.Context, service creditpb.IngestionServiceClient, id string,
) (int, error) {
	var offset int
	err := untilAnswered(ctx, func(ctx context.Context) error {
		found, err := service.GetIngestion(ctx, &creditpb.GetIngestionRequest{IngestionId: id})
		offset = int(found.GetIngestion().GetCommittedOffset())
		return err
	})
	var unknown *refused
	if errors.As(err, &unknown) && unknown.reason == "INGESTION_NOT_FOUND" {
		return 0, nil
	}
	return offset, err
}

func send(
	ctx context.Context, service creditpb.IngestionServiceClient, id string,
	rows []*creditpb.LoanRow, offset int,
) (*creditpb.IngestRowsResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stream, err := service.IngestRows(ctx)
	if err != nil {
		return nil, err
	}
	header := &creditpb.IngestRowsHeader{
		IngestionId: id, Kind: creditpb.IngestionKind_INGESTION_KIND_LOANS,
	}
	messages := []*creditpb.IngestRowsRequest{
		{Payload: &creditpb.IngestRowsRequest_Header{Header: header}},
	}
	for first := offset; first < len(rows); first += batchRows {
		some := rows[first:min(first+batchRows, len(rows))]
		batch := &creditpb.RowBatch{
			Offset: int64(first), Rows: &creditpb.RowBatch_Loans{Loans: &creditpb.LoanRows{Rows: some}},
		}
		messages = append(messages, &creditpb.IngestRowsRequest{
			Payload: &creditpb.IngestRowsRequest_Batch{Batch: batch},
		})
	}
	for _, message := range messages {
		// io.EOF: the service has ended the stream; CloseAndRecv returns the reason.
		if err := stream.Send(message); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
	return stream.CloseAndRecv()
}

// Follow events.

// follow calls use with a customer's events until it returns that it has enough: each once, in order,
// across failures and restarts. Store the event's id in the same transaction as its effect.
func follow(
	ctx context.Context, service creditpb.CreditServiceClient, after, customer int64,
	use func(*creditpb.CreditEvent) bool,
) error {
	for ctx.Err() == nil {
		admitted := false
		err := func() error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			stream, err := service.WatchCreditEvents(ctx, &creditpb.WatchCreditEventsRequest{
				AfterEventId: after, CustomerId: proto.Int64(customer),
			})
			for err == nil {
				var response *creditpb.WatchCreditEventsResponse
				if response, err = stream.Recv(); err != nil {
					break
				}
				admitted = true
				if event := response.GetEvent(); event != nil {
					after = event.EventId
					if use(event) {
						return nil
					}
				} else {
					// Events that the filter excluded need not be sent again.
					after = response.GetHeartbeat().GetLastEventId()
				}
			}
			return err
		}()
		if err == nil {
			return nil
		}
		found := refusal(err)
		// The token has expired; the file may contain a new one.
		tokenIsOver := admitted && found.code == codes.Unauthenticated
		if !errors.Is(err, io.EOF) && !worthRepeating(found.code) && !tokenIsOver {
			return found
		}
		time.Sleep(time.Duration(100+rand.Intn(900)) * time.Millisecond)
	}
	return ctx.Err()
}

// Usage.

func rupees(units int64) *money.Money {
	return &money.Money{CurrencyCode: "INR", Units: units}
}

func run(ctx context.Context) error {
	address := os.Getenv("CREDIT_ADDRESS")
	if address == "" {
		address = "127.0.0.1:50051"
	}
	connection, err := connect(address, os.Getenv("CREDIT_SERVER_CA"), os.Getenv("CREDIT_TOKEN_FILE"))
	if err != nil {
		return err
	}
	defer connection.Close()
	credit := creditpb.NewCreditServiceClient(connection)
	if len(os.Args) == 3 && os.Args[1] == "payments" {
		customer, err := strconv.ParseInt(os.Args[2], 10, 64)
		if err != nil {
			return err
		}
		return payments(ctx, credit, customer)
	}
	ingestion := creditpb.NewIngestionServiceClient(connection)

	// Generate the ids and store them with the intended write until you have the response.
	registration := &creditpb.RegisterCustomerRequest{
		RequestId:     uuid.NewString(),
		FirstName:     "Kavya",
		LastName:      "Shah",
		Age:           29,
		MonthlyIncome: rupees(80000),
		PhoneNumber:   "9876598803",
	}
	var customer int64
	err = untilAnswered(ctx, func(ctx context.Context) error {
		answer, err := credit.RegisterCustomer(ctx, registration)
		customer = answer.GetCustomer().GetCustomerId()
		return err
	})
	if err != nil {
		return err
	}
	loan := &creditpb.LoanRow{
		CustomerId:         proto.Int64(customer),
		LoanId:             proto.Int64(1),
		LoanAmount:         rupees(800000),
		TenureMonths:       proto.Int32(12),
		InterestRate:       &decimal.Decimal{Value: "10"},
		MonthlyInstallment: rupees(70333),
		EmisPaidOnTime:     proto.Int32(12),
		StartDate:          &date.Date{Year: 2022, Month: 5, Day: 31},
	}
	done, err := ingest(ctx, ingestion, uuid.NewString(), []*creditpb.LoanRow{loan})
	if err != nil {
		return err
	}
	fmt.Println("rows read:", done.Ingestion.RowsRead, "rejected:", done.Ingestion.Rejected)

	ask := &creditpb.CreateLoanRequest{
		RequestId:    uuid.NewString(),
		CustomerId:   customer,
		LoanAmount:   rupees(50000),
		InterestRate: &decimal.Decimal{Value: "12.5"},
		TenureMonths: 12,
	}
	var booked *creditpb.CreateLoanResponse
	err = untilAnswered(ctx, func(ctx context.Context) (err error) {
		booked, err = credit.CreateLoan(ctx, ask)
		return err
	})
	if err != nil {
		return err
	}
	// A decline is a response, too; its reasons and counter-offer state what would be approved.
	fmt.Println(booked.Message)

	// An offer holds its credit until it is accepted or withdrawn, or its last day is over.
	sanction := &creditpb.CreateLoanOfferRequest{
		RequestId:    uuid.NewString(),
		CustomerId:   customer,
		LoanAmount:   rupees(25000),
		InterestRate: &decimal.Decimal{Value: "12.5"},
		TenureMonths: 12,
	}
	var offered *creditpb.CreateLoanOfferResponse
	err = untilAnswered(ctx, func(ctx context.Context) (err error) {
		offered, err = credit.CreateLoanOffer(ctx, sanction)
		return err
	})
	if err != nil {
		return err
	}
	disbursement := &creditpb.AcceptLoanOfferRequest{
		RequestId:  uuid.NewString(),
		OfferId:    offered.GetOffer().GetOfferId(),
		LoanAmount: rupees(20000),
	}
	var accepted *creditpb.AcceptLoanOfferResponse
	err = untilAnswered(ctx, func(ctx context.Context) (err error) {
		accepted, err = credit.AcceptLoanOffer(ctx, disbursement)
		return err
	})
	if err != nil {
		return err
	}
	fmt.Printf("offered ₹%d, lent ₹%d\n",
		offered.GetOffer().GetLoanAmount().GetUnits(), accepted.GetLoan().GetLoanAmount().GetUnits())

	err = untilAnswered(ctx, func(ctx context.Context) error {
		_, err := credit.CheckEligibility(ctx, &creditpb.CheckEligibilityRequest{
			CustomerId: customer, TenureMonths: 481,
		})
		return err
	})
	var wrong *refused
	if errors.As(err, &wrong) {
		fmt.Printf("%v (%s)\n", wrong.code, wrong.reason)
		for field, problem := range wrong.fields {
			fmt.Printf("  %s: %s\n", field, problem)
		}
	}

	// Many checks in one call: each result is at the place of its ask.
	asks := []*creditpb.CheckEligibilityRequest{
		{
			CustomerId:   customer,
			LoanAmount:   rupees(10000),
			InterestRate: &decimal.Decimal{Value: "12.5"},
			TenureMonths: 12,
		},
		{CustomerId: customer, TenureMonths: 481},
	}
	var batch *creditpb.BatchCheckEligibilityResponse
	err = untilAnswered(ctx, func(ctx context.Context) (err error) {
		batch, err = credit.BatchCheckEligibility(ctx, &creditpb.BatchCheckEligibilityRequest{Asks: asks})
		return err
	})
	if err != nil {
		return err
	}
	for _, result := range batch.Results {
		if failed := result.GetError(); failed != nil {
			fmt.Println("checked: error", failed.Code)
		} else if result.GetEligibility().Approved {
			fmt.Println("checked: approved")
		} else {
			fmt.Println("checked: not approved")
		}
	}

	return follow(ctx, credit, 0, customer, func(event *creditpb.CreditEvent) bool {
		fmt.Printf("event: %T\n", event.Payload)
		return event.GetLoanCreated().GetDecisionId() == booked.DecisionId
	})
}

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
