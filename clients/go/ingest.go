package creditclient

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"example.com/credit-service-client/creditpb"
)

const batchRows = 1_000

// Rows are the rows of one ingestion, and how to store them.
type Rows struct {
	// Customers or Loans, one of the two.
	Customers []*creditpb.CustomerRow
	Loans     []*creditpb.LoanRow
	// IngestionID is a UUID. To go on after a crash of this program, choose it, store it, and send the same
	// rows again; "" is a random one.
	IngestionID string
	// UpdateExisting replaces stored values; it needs the scope ingest.update.
	UpdateExisting bool
	// ValidateOnly reports what would be done and stores nothing.
	ValidateOnly bool
	// Progress gets the number of rows passed to the connection so far, if it is set.
	Progress func(sent int)
}

// Ingest sends rows, each stored exactly once, and returns the ended ingestion with its first errors. Check
// Rejected: an invalid row stops no other.
//
// A lost connection is resumed after the committed rows. It returns a *ServiceError for a rejection, at the
// end of ctx, and after Patience.GiveUp without a committed row; another error for rows of no or both kinds.
func (c *Client) Ingest(ctx context.Context, rows Rows) (*creditpb.IngestRowsResponse, error) {
	if (rows.Customers == nil) == (rows.Loans == nil) {
		return nil, errors.New("an ingestion has either Customers or Loans")
	}
	if rows.IngestionID == "" {
		rows.IngestionID = uuid.NewString()
	}
	attempts := attempts{Patience: c.patience}
	for reached := 0; ; {
		offset, err := c.committedOffset(ctx, rows.IngestionID)
		if err != nil {
			return nil, err
		}
		if offset > reached {
			reached = offset
			attempts.progressed()
		}
		response, err := c.send(ctx, rows, offset)
		if err == nil {
			return response, nil
		}
		failed := serviceError(err)
		// A stream that was resumed too early does not begin at the committed offset.
		if !worthRepeating(failed.Code) && failed.Reason != "OFFSET_MISMATCH" {
			return nil, failed
		}
		if err := attempts.failed(ctx, failed); err != nil {
			return nil, err
		}
	}
}

func (c *Client) committedOffset(ctx context.Context, id string) (int, error) {
	found, err := c.Ingestions.GetIngestion(ctx, &creditpb.GetIngestionRequest{IngestionId: id})
	var failed *ServiceError
	if errors.As(err, &failed) && failed.Code == codes.NotFound {
		// Nothing was sent, or the connection was lost before the service stored the header.
		return 0, nil
	}
	return int(found.GetIngestion().GetCommittedOffset()), err
}

// send streams the rows from an offset. A stream that accepts nothing for StallTimeout ends with CANCELLED.
func (c *Client) send(ctx context.Context, rows Rows, offset int) (*creditpb.IngestRowsResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stalled := time.AfterFunc(c.patience.StallTimeout, cancel)
	defer stalled.Stop()
	stream, err := c.Ingestions.IngestRows(ctx)
	if err != nil {
		return nil, err
	}
	header := &creditpb.IngestRowsRequest_Header{Header: rows.header()}
	err = stream.Send(&creditpb.IngestRowsRequest{Payload: header})
	total := max(len(rows.Customers), len(rows.Loans))
	for first := offset; first < total && err == nil; first += batchRows {
		end := min(first+batchRows, total)
		batch := &creditpb.IngestRowsRequest_Batch{Batch: rows.batch(first, end)}
		if err = stream.Send(&creditpb.IngestRowsRequest{Payload: batch}); err == nil {
			stalled.Reset(c.patience.StallTimeout)
			if rows.Progress != nil {
				rows.Progress(end)
			}
		}
	}
	// io.EOF: the service has ended the stream; CloseAndRecv returns the reason.
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return stream.CloseAndRecv()
}

func (r Rows) header() *creditpb.IngestRowsHeader {
	header := &creditpb.IngestRowsHeader{
		IngestionId:  r.IngestionID,
		Kind:         creditpb.IngestionKind_INGESTION_KIND_CUSTOMERS,
		OnExisting:   creditpb.OnExisting_ON_EXISTING_SKIP,
		ValidateOnly: r.ValidateOnly,
	}
	if r.Loans != nil {
		header.Kind = creditpb.IngestionKind_INGESTION_KIND_LOANS
	}
	if r.UpdateExisting {
		header.OnExisting = creditpb.OnExisting_ON_EXISTING_UPDATE
	}
	return header
}

func (r Rows) batch(first, end int) *creditpb.RowBatch {
	batch := &creditpb.RowBatch{Offset: int64(first)}
	if r.Loans != nil {
		batch.Rows = &creditpb.RowBatch_Loans{Loans: &creditpb.LoanRows{Rows: r.Loans[first:end]}}
	} else {
		batch.Rows = &creditpb.RowBatch_Customers{Customers: &creditpb.CustomerRows{Rows: r.Customers[first:end]}}
	}
	return batch
}
