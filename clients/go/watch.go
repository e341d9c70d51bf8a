package creditclient

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"example.com/credit-service-client/creditpb"
)

// A stream is reopened after this time: a connection can be dead without either side noticing.
var watchTime = 5 * time.Minute

// Watch yields the events after an id without end, every one once and in order, across lost connections,
// restarts of the service and new tokens.
//
//	for event, err := range client.Watch(ctx, &creditpb.WatchCreditEventsRequest{AfterEventId: last}) { … }
//
// Store the id of each event together with its effect, and start after the last one. It ends after an
// error, a *ServiceError: a rejection, the end of ctx, or Patience.GiveUp without a message. The metadata of
// EVENTS_EXPIRED names the oldest event that is kept.
func (c *Client) Watch(
	ctx context.Context, request *creditpb.WatchCreditEventsRequest,
) iter.Seq2[*creditpb.CreditEvent, error] {
	return func(yield func(*creditpb.CreditEvent, error) bool) {
		position := proto.Clone(request).(*creditpb.WatchCreditEventsRequest)
		attempts := attempts{Patience: c.patience}
		admitted := false
		for {
			received, err := c.watchOnce(ctx, position, func(event *creditpb.CreditEvent) bool { return yield(event, nil) })
			if err == nil {
				return
			}
			if received {
				admitted = true
				attempts.progressed()
			}
			failed := serviceError(err)
			if received && failed.Code == codes.DeadlineExceeded {
				continue
			}
			// The token has expired; the file may have a new one.
			isExpired := admitted && c.renewsToken && failed.Code == codes.Unauthenticated
			if !worthRepeating(failed.Code) && !isExpired {
				yield(nil, failed)
				return
			}
			if err := attempts.failed(ctx, failed); err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// watchOnce passes on the events of one stream and advances position. It reports whether any message came,
// and returns nil when the caller has enough.
func (c *Client) watchOnce(
	ctx context.Context, position *creditpb.WatchCreditEventsRequest, use func(*creditpb.CreditEvent) bool,
) (received bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, watchTime)
	defer cancel()
	// Without a server it fails at once, instead of waiting for one until its timeout.
	stream, err := c.Credit.WatchCreditEvents(ctx, position, grpc.WaitForReady(false))
	if err != nil {
		return false, err
	}
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			// A stopping server ends its streams without an error.
			return received, status.Error(codes.Unavailable, "the server closed the stream")
		}
		if err != nil {
			return received, err
		}
		received = true
		if event := response.GetEvent(); event != nil {
			position.AfterEventId = event.EventId
			if !use(event) {
				return received, nil
			}
		} else {
			// Events that the filter left out need not be sent again.
			position.AfterEventId = max(position.AfterEventId, response.GetHeartbeat().GetLastEventId())
		}
	}
}
