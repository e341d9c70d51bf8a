package creditclient_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"example.com/credit-service-client"
	"example.com/credit-service-client/creditpb"
)

// Rows.

// ingestions keeps the rows of one ingestion, and the offsets at which its streams began.
type ingestions struct {
	creditpb.UnimplementedIngestionServiceServer
	// after is called after each committed batch, with its number from 1.
	after     func(batch int, stream grpc.ServerStream) error
	cut       func()
	mutex     sync.Mutex
	header    *creditpb.IngestRowsHeader
	committed []int64
	began     []int64
	batches   int
}

func (i *ingestions) GetIngestion(_ context.Context, request *creditpb.GetIngestionRequest) (*creditpb.GetIngestionResponse, error) {
	i.mutex.Lock()
	defer i.mutex.Unlock()
	if i.header == nil {
		return nil, status.Error(codes.NotFound, "no such ingestion")
	}
	return &creditpb.GetIngestionResponse{Ingestion: i.ingestion(request.IngestionId)}, nil
}

func (i *ingestions) ingestion(id string) *creditpb.Ingestion {
	offset := int64(len(i.committed))
	return &creditpb.Ingestion{IngestionId: id, CommittedOffset: offset, RowsRead: offset}
}

func (i *ingestions) IngestRows(stream grpc.ClientStreamingServer[creditpb.IngestRowsRequest, creditpb.IngestRowsResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	i.mutex.Lock()
	isResumed := proto.Equal(i.header, first.GetHeader())
	if i.header != nil && !isResumed {
		i.mutex.Unlock()
		return status.Error(codes.FailedPrecondition, "another header")
	}
	i.header = first.GetHeader()
	i.mutex.Unlock()
	for isFirst := true; ; isFirst = false {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&creditpb.IngestRowsResponse{Ingestion: i.ingestion(i.header.IngestionId)})
		}
		if err != nil {
			return err
		}
		if err := i.commit(message.GetBatch(), isFirst); err != nil {
			return err
		}
		if i.after != nil {
			if err := i.after(i.batches, stream); err != nil {
				return err
			}
		}
	}
}

func (i *ingestions) commit(batch *creditpb.RowBatch, isFirst bool) error {
	i.mutex.Lock()
	defer i.mutex.Unlock()
	if isFirst {
		i.began = append(i.began, batch.Offset)
	}
	if batch.Offset != int64(len(i.committed)) {
		return status.Errorf(codes.OutOfRange, "offset %d instead of %d", batch.Offset, len(i.committed))
	}
	for _, each := range batch.GetCustomers().GetRows() {
		i.committed = append(i.committed, each.GetCustomerId())
	}
	for _, each := range batch.GetLoans().GetRows() {
		i.committed = append(i.committed, each.GetLoanId())
	}
	i.batches++
	return nil
}

// customers are too large to be on their way all at once: a stream that has ended accepts no more of them.
func customers(count int) (rows []*creditpb.CustomerRow, ids []int64) {
	name := strings.Repeat("a", 1_000)
	for id := range int64(count) {
		rows = append(rows, &creditpb.CustomerRow{CustomerId: proto.Int64(id + 1), FirstName: name})
		ids = append(ids, id+1)
	}
	return rows, ids
}

// ingesting runs an ingestion whose third batch meets a failure.
func ingesting(t *testing.T, patience creditclient.Patience, failure func(*service, grpc.ServerStream) error) (*service, *creditpb.IngestRowsResponse, error) {
	t.Helper()
	service := &service{}
	service.ingestions.after = func(batch int, stream grpc.ServerStream) error {
		if batch != 3 {
			return nil
		}
		service.ingestions.batches++
		return failure(service, stream)
	}
	serve(t, service, nil)
	client := dial(t, service.address, creditclient.Options{Patience: patience})
	rows, _ := customers(5_500)
	done, err := client.Ingest(t.Context(), creditclient.Rows{Customers: rows})
	return service, done, err
}

func TestRowsAreStoredOnceThroughALostConnection(t *testing.T) {
	for name, failure := range map[string]func(*service, grpc.ServerStream) error{
		"cut": func(s *service, stream grpc.ServerStream) error {
			s.connections.cut()
			<-stream.Context().Done()
			return stream.Context().Err()
		},
		"stopping": func(*service, grpc.ServerStream) error { return status.Error(codes.Unavailable, "stopping") },
		"resumed too early": func(s *service, _ grpc.ServerStream) error {
			mismatch := &errdetails.ErrorInfo{Reason: "OFFSET_MISMATCH", Domain: "credit_service"}
			return refused(t, codes.OutOfRange, mismatch)
		},
		"stalled": func(_ *service, stream grpc.ServerStream) error {
			<-stream.Context().Done()
			return stream.Context().Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			patience := quick
			if name == "stalled" {
				patience.StallTimeout = 2 * time.Second
			}
			service, done, err := ingesting(t, patience, failure)
			if err != nil {
				t.Fatal(err)
			}
			if _, ids := customers(5_500); !slices.Equal(service.ingestions.committed, ids) || done.Ingestion.RowsRead != 5_500 {
				t.Errorf("%d rows, read %d", len(service.ingestions.committed), done.Ingestion.RowsRead)
			}
			if _, err := uuid.Parse(service.ingestions.header.IngestionId); err != nil {
				t.Errorf("id %q: %v", service.ingestions.header.IngestionId, err)
			}
			if want := []int64{0, 3_000}; !slices.Equal(service.ingestions.began, want) {
				t.Errorf("streams began at %d", service.ingestions.began)
			}
		})
	}
}

func TestARejectedIngestionIsNotRepeated(t *testing.T) {
	service, _, err := ingesting(t, quick, func(*service, grpc.ServerStream) error {
		return status.Error(codes.FailedPrecondition, "rows differ")
	})
	if failed := serviceError(t, err); failed.Code != codes.FailedPrecondition || len(service.ingestions.began) != 1 {
		t.Errorf("%v after %d streams", failed, len(service.ingestions.began))
	}
}

func TestAnIngestionWithoutProgressIsGivenUp(t *testing.T) {
	const enough = 2_000
	service := &service{}
	failures := 0
	service.ingestions.after = func(int, grpc.ServerStream) error {
		service.ingestions.committed = nil
		if failures++; failures < enough {
			return status.Error(codes.Aborted, "not now")
		}
		return nil
	}
	serve(t, service, nil)
	patience := quick
	patience.GiveUp = 200 * time.Millisecond
	client := dial(t, service.address, creditclient.Options{Patience: patience})
	rows, _ := customers(1)
	// The deadline is that of the other calls, which then are not given up.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := client.Ingest(ctx, creditclient.Rows{Customers: rows})
	if failed := serviceError(t, err); failed.Code != codes.Aborted {
		t.Error(failed)
	}
}

func TestProgressStartsTheTimeForGivingUpAnew(t *testing.T) {
	service := &service{}
	service.ingestions.after = func(int, grpc.ServerStream) error {
		return status.Error(codes.Aborted, "after every batch")
	}
	serve(t, service, nil)
	// Each pause takes a third of the time or more, so that four in a row are too many.
	patience := creditclient.Patience{
		GiveUp: 150 * time.Millisecond, FirstPause: 100 * time.Millisecond, LongestPause: 100 * time.Millisecond,
	}
	client := dial(t, service.address, creditclient.Options{Patience: patience})
	rows, ids := customers(5_500)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done, err := client.Ingest(ctx, creditclient.Rows{Customers: rows})
	if err != nil || done.Ingestion.RowsRead != 5_500 || !slices.Equal(service.ingestions.committed, ids) {
		t.Error(done, err)
	}
}

func TestAnIngestionGoesOnUnderItsID(t *testing.T) {
	service := serve(t, &service{}, nil)
	client := dial(t, service.address, creditclient.Options{})
	const id = "0d3c7f52-9d0c-4a0e-8a59-6a4c1a3f1b01"
	loans := make([]*creditpb.LoanRow, 1_500)
	for i := range loans {
		loans[i] = &creditpb.LoanRow{LoanId: proto.Int64(int64(i))}
	}
	var sent []int
	rows := creditclient.Rows{
		Loans: loans, IngestionID: id, UpdateExisting: true, ValidateOnly: true,
		Progress: func(count int) { sent = append(sent, count) },
	}
	for range 2 {
		done, err := client.Ingest(t.Context(), rows)
		if err != nil || done.Ingestion.IngestionId != id || done.Ingestion.RowsRead != 1_500 {
			t.Fatal(done, err)
		}
	}
	if want := []int{1_000, 1_500}; !slices.Equal(sent, want) {
		t.Errorf("sent %d", sent)
	}
	header := service.ingestions.header
	if header.Kind != creditpb.IngestionKind_INGESTION_KIND_LOANS || !header.ValidateOnly ||
		header.OnExisting != creditpb.OnExisting_ON_EXISTING_UPDATE {
		t.Error(header)
	}
}

func TestAnIngestionHasRowsOfOneKind(t *testing.T) {
	client := dial(t, "127.0.0.1:1", creditclient.Options{})
	for _, rows := range []creditclient.Rows{{}, {Customers: []*creditpb.CustomerRow{}, Loans: []*creditpb.LoanRow{}}} {
		if _, err := client.Ingest(t.Context(), rows); err == nil {
			t.Errorf("%+v", rows)
		}
	}
}

// Events.

func event(id int64) *creditpb.WatchCreditEventsResponse {
	return &creditpb.WatchCreditEventsResponse{
		Message: &creditpb.WatchCreditEventsResponse_Event{Event: &creditpb.CreditEvent{EventId: id}},
	}
}

func heartbeat(last int64) *creditpb.WatchCreditEventsResponse {
	return &creditpb.WatchCreditEventsResponse{
		Message: &creditpb.WatchCreditEventsResponse_Heartbeat{Heartbeat: &creditpb.WatchHeartbeat{LastEventId: last}},
	}
}

type watchStream = grpc.ServerStreamingServer[creditpb.WatchCreditEventsResponse]

func (s *service) WatchCreditEvents(request *creditpb.WatchCreditEventsRequest, stream watchStream) error {
	s.mutex.Lock()
	s.watched = append(s.watched, proto.Clone(request).(*creditpb.WatchCreditEventsRequest))
	number := len(s.watched)
	s.mutex.Unlock()
	return s.watch(number, stream)
}

// sending returns a stream that sends messages, and then ends or stays open.
func sending(stream watchStream, messages ...*creditpb.WatchCreditEventsResponse) error {
	for _, each := range messages {
		if err := stream.Send(each); err != nil {
			return err
		}
	}
	return nil
}

// watching returns the ids of events until there are enough or an error comes, and where each stream began.
func watching(t *testing.T, s *service, options creditclient.Options, enough int) (ids, began []int64, err error) {
	t.Helper()
	serve(t, s, nil)
	client := dial(t, s.address, options)
	request := &creditpb.WatchCreditEventsRequest{AfterEventId: 7, CustomerId: proto.Int64(101)}
	for each, failed := range client.Watch(t.Context(), request) {
		if failed != nil {
			err = failed
			continue // it ends by itself
		}
		if s.received != nil {
			s.received <- each.EventId
		}
		if ids = append(ids, each.EventId); len(ids) == enough {
			break
		}
	}
	if request.AfterEventId != 7 {
		t.Error("the caller's request was changed")
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, each := range s.watched {
		began = append(began, each.AfterEventId)
		if each.GetCustomerId() != 101 {
			t.Error("a stream lost its filter")
		}
	}
	return ids, began, err
}

func TestEventsAreResumedAfterTheLastOne(t *testing.T) {
	for name, end := range map[string]func(*service, watchStream) error{
		"cut": func(s *service, stream watchStream) error {
			for <-s.received != 11 {
			}
			s.connections.cut()
			<-stream.Context().Done()
			return stream.Context().Err()
		},
		"stopped":  func(*service, watchStream) error { return nil },
		"stopping": func(*service, watchStream) error { return status.Error(codes.Unavailable, "stopping") },
	} {
		t.Run(name, func(t *testing.T) {
			s := &service{received: make(chan int64, 10)}
			s.watch = func(number int, stream watchStream) error {
				if number == 1 {
					if err := sending(stream, event(8), event(11), heartbeat(15)); err != nil {
						return err
					}
					return end(s, stream)
				}
				return sending(stream, heartbeat(16), event(20), event(21))
			}
			ids, began, err := watching(t, s, creditclient.Options{Patience: quick}, 4)
			if want := []int64{8, 11, 20, 21}; !slices.Equal(ids, want) || err != nil {
				t.Errorf("events %d, %v", ids, err)
			}
			// A cut can take the heartbeat along.
			if want := []int64{7, 15}; !slices.Equal(began, want) && (name != "cut" || !slices.Equal(began, []int64{7, 11})) {
				t.Errorf("streams began after %d", began)
			}
		})
	}
}

func TestAWatchOutlivesItsToken(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	expired := status.Error(codes.Unauthenticated, "expired")
	s := &service{}
	s.watch = func(number int, stream watchStream) error {
		// A heartbeat never leads back.
		if err := sending(stream, event(7+int64(number)), heartbeat(3)); err != nil {
			return err
		}
		if number == 1 {
			return expired
		}
		return nil
	}
	ids, began, err := watching(t, s, creditclient.Options{TokenFile: token, Patience: quick}, 2)
	if !slices.Equal(ids, []int64{8, 9}) || !slices.Equal(began, []int64{7, 8}) || err != nil {
		t.Errorf("events %d after %d, %v", ids, began, err)
	}
	refusing := &service{watch: func(int, watchStream) error { return expired }}
	_, began, err = watching(t, refusing, creditclient.Options{TokenFile: token, Patience: quick}, 1)
	if failed := serviceError(t, err); failed.Code != codes.Unauthenticated || len(began) != 1 {
		t.Errorf("%v after %d streams", failed, len(began))
	}
}

func TestARejectedWatchEnds(t *testing.T) {
	s := &service{watch: func(_ int, stream watchStream) error {
		if err := sending(stream, event(8)); err != nil {
			return err
		}
		return status.Error(codes.OutOfRange, "expired events")
	}}
	ids, began, err := watching(t, s, creditclient.Options{Patience: quick}, 2)
	if failed := serviceError(t, err); failed.Code != codes.OutOfRange || len(ids) != 1 || len(began) != 1 {
		t.Errorf("%v after events %d, %d streams", failed, ids, len(began))
	}
}

func TestAWatchWithoutAServerIsGivenUp(t *testing.T) {
	s := &service{}
	serve(t, s, nil).stop()
	patience := quick
	patience.GiveUp = 200 * time.Millisecond
	client := dial(t, s.address, creditclient.Options{Patience: patience})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	failures := 0
	for _, err := range client.Watch(ctx, &creditpb.WatchCreditEventsRequest{}) {
		failures++
		if failed := serviceError(t, err); failed.Code != codes.Unavailable {
			t.Error(failed)
		}
	}
	if failures != 1 {
		t.Errorf("%d failures", failures)
	}
}

func TestAnEventStartsTheTimeForGivingUpAnew(t *testing.T) {
	s := &service{watch: func(number int, stream watchStream) error {
		return sending(stream, event(7+int64(number)))
	}}
	// Each pause takes a third of the time or more, so that four in a row are too many.
	patience := creditclient.Patience{
		GiveUp: 150 * time.Millisecond, FirstPause: 100 * time.Millisecond, LongestPause: 100 * time.Millisecond,
	}
	ids, _, err := watching(t, s, creditclient.Options{Patience: patience}, 6)
	if want := []int64{8, 9, 10, 11, 12, 13}; !slices.Equal(ids, want) || err != nil {
		t.Errorf("events %d, %v", ids, err)
	}
}

func TestASilentWatchIsReopened(t *testing.T) {
	before := *creditclient.WatchTime
	*creditclient.WatchTime = 1500 * time.Millisecond
	defer func() { *creditclient.WatchTime = before }()
	s := &service{}
	s.watch = func(number int, stream watchStream) error {
		if err := sending(stream, event(7+int64(number))); err != nil {
			return err
		}
		<-stream.Context().Done() // like a dead connection
		return stream.Context().Err()
	}
	// A reopened stream is no failure: no pause would fit.
	patience := creditclient.Patience{GiveUp: time.Second, FirstPause: time.Hour, LongestPause: time.Hour}
	ids, _, err := watching(t, s, creditclient.Options{Patience: patience}, 3)
	if !slices.Equal(ids, []int64{8, 9, 10}) || err != nil {
		t.Errorf("events %d, %v", ids, err)
	}
}

func TestAWatchEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := serve(t, &service{watch: func(_ int, stream watchStream) error {
		if err := sending(stream, event(8)); err != nil {
			return err
		}
		<-stream.Context().Done()
		return stream.Context().Err()
	}}, nil)
	client := dial(t, s.address, creditclient.Options{Patience: quick})
	var last error
	for _, err := range client.Watch(ctx, &creditpb.WatchCreditEventsRequest{}) {
		cancel()
		last = err
	}
	if failed := serviceError(t, last); failed.Code != codes.Canceled || len(s.watched) != 1 {
		t.Errorf("%v after %d streams", failed, len(s.watched))
	}
}
