package creditclient

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Patience limits the attempts of a call.
type Patience struct {
	// GiveUp is how long a unary call without a deadline is repeated, and a stream that makes no progress:
	// a minute.
	GiveUp time.Duration
	// CallTimeout is the longest time of one attempt of a unary call: 10 s.
	CallTimeout time.Duration
	// StallTimeout is how long a stream of rows may accept no row before it counts as lost: a minute.
	StallTimeout time.Duration
	// FirstPause is the pause after the first failure, which doubles: 200 ms.
	FirstPause time.Duration
	// LongestPause is the longest pause: 5 s.
	LongestPause time.Duration
}

func (p Patience) withDefaults() Patience {
	set := func(field *time.Duration, value time.Duration) {
		if *field <= 0 {
			*field = value
		}
	}
	set(&p.GiveUp, time.Minute)
	set(&p.CallTimeout, 10*time.Second)
	set(&p.StallTimeout, time.Minute)
	set(&p.FirstPause, 200*time.Millisecond)
	set(&p.LongestPause, 5*time.Second)
	return p
}

// attempts counts failures, pauses after each, and gives up in time.
type attempts struct {
	Patience
	end   time.Time // zero: GiveUp after the first failure
	pause time.Duration
}

// progressed starts counting anew.
func (a *attempts) progressed() { a.end, a.pause = time.Time{}, 0 }

// failed pauses before the next attempt. It returns the error if there is none.
func (a *attempts) failed(ctx context.Context, failed *ServiceError) error {
	if a.end.IsZero() {
		a.end = time.Now().Add(a.GiveUp)
	}
	a.pause = min(max(2*a.pause, a.FirstPause), a.LongestPause)
	spread := a.pause/2 + rand.N(a.pause/2+1)
	wait := max(min(failed.RetryAfter, a.LongestPause), spread)
	if ctx.Err() != nil || time.Now().Add(wait).After(a.end) {
		return failed
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return failed
	}
}

// untilAnswered repeats a call that found no server or a busy one, always with the same request id.
func (p Patience) untilAnswered(
	ctx context.Context, method string, request, response any, connection *grpc.ClientConn,
	invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	request = withRequestID(request)
	end, limited := ctx.Deadline()
	if !limited {
		end = time.Now().Add(p.GiveUp)
	}
	for attempts := (attempts{Patience: p, end: end}); ; {
		attempt, cancel := context.WithDeadline(ctx, earlier(end, time.Now().Add(p.CallTimeout)))
		err := invoke(attempt, method, request, response, connection, options...)
		cancel()
		if err == nil {
			return nil
		}
		failed := serviceError(err)
		if !worthRepeating(failed.Code) {
			return failed
		}
		if err := attempts.failed(ctx, failed); err != nil {
			return err
		}
	}
}

// worthRepeating reports whether a repeat can succeed: a lost connection, a stopping or a busy server. The
// call may have taken effect; a repeat with the same request id returns the stored response.
func worthRepeating(code codes.Code) bool {
	switch code {
	case codes.Unavailable, codes.Aborted, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Canceled:
		return true
	}
	return false
}

// withRequestID returns a write without a request id as a copy with a random one, other requests as they are.
func withRequestID(request any) any {
	message, ok := request.(proto.Message)
	if !ok {
		return request
	}
	field := message.ProtoReflect().Descriptor().Fields().ByName("request_id")
	if field == nil || message.ProtoReflect().Get(field).String() != "" {
		return request
	}
	named := proto.Clone(message)
	named.ProtoReflect().Set(field, stringValue(uuid.NewString()))
	return named
}

func stringValue(text string) protoreflect.Value { return protoreflect.ValueOfString(text) }

func earlier(one, other time.Time) time.Time {
	if one.Before(other) {
		return one
	}
	return other
}
