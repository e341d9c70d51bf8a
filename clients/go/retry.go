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

// Patience limits the attempts of a unary call.
type Patience struct {
	// GiveUp is how long a call without a deadline is repeated: a minute.
	GiveUp time.Duration
	// CallTimeout is the longest time of one attempt: 10 s.
	CallTimeout time.Duration
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
	set(&p.FirstPause, 200*time.Millisecond)
	set(&p.LongestPause, 5*time.Second)
	return p
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
	for pause := p.FirstPause; ; pause = min(2*pause, p.LongestPause) {
		attempt, cancel := context.WithDeadline(ctx, earlier(end, time.Now().Add(p.CallTimeout)))
		err := invoke(attempt, method, request, response, connection, options...)
		cancel()
		if err == nil {
			return nil
		}
		failed := serviceError(err)
		spread := pause/2 + rand.N(pause/2+1)
		wait := max(min(failed.RetryAfter, p.LongestPause), spread)
		if !worthRepeating(failed.Code) || ctx.Err() != nil || time.Now().Add(wait).After(end) {
			return failed
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return failed
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
