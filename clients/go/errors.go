package creditclient

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ServiceError is a call that failed. Find it in an error with errors.As.
type ServiceError struct {
	Code codes.Code
	// Reason is a value of the contract's ErrorReason without prefix; "" if the service did not answer.
	Reason  string
	Message string
	// Metadata is what the reason is about: ids, limits.
	Metadata map[string]string
	// Fields has every invalid field with what is wrong with it.
	Fields map[string]string
	// RetryAfter is how long to wait before a retry; 0 if the service does not say.
	RetryAfter time.Duration
	status     *status.Status
}

// Error returns the status, the reason and the message.
func (e *ServiceError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("%v: %s", e.Code, e.Message)
	}
	return fmt.Sprintf("%v (%s): %s", e.Code, e.Reason, e.Message)
}

// GRPCStatus returns the status with all its details, for the package google.golang.org/grpc/status.
func (e *ServiceError) GRPCStatus() *status.Status { return e.status }

func serviceError(err error) *ServiceError {
	var known *ServiceError
	if errors.As(err, &known) {
		return known
	}
	s := status.Convert(err)
	found := &ServiceError{Code: s.Code(), Message: s.Message(), Fields: map[string]string{}, status: s}
	for _, detail := range s.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			found.Reason, found.Metadata = detail.Reason, detail.Metadata
		case *errdetails.BadRequest:
			for _, each := range detail.FieldViolations {
				found.Fields[each.Field] = each.Description
			}
		case *errdetails.RetryInfo:
			found.RetryAfter = detail.RetryDelay.AsDuration()
		}
	}
	return found
}
