// Payments of a loan: record one, reverse it, prepay, foreclose; and change a customer's facts.
//
//	CREDIT_ADDRESS=127.0.0.1:50051 go run . payments CUSTOMER_ID
//
// It books a small loan for the customer and repays it.
package main

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/type/decimal"
	"google.golang.org/genproto/googleapis/type/money"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"example.com/credit/creditpb"
)

// amount formats rupees.
func amount(m *money.Money) string { return fmt.Sprintf("%d.%02d", m.Units, m.Nanos/1e7) }

// answer returns the response to a request that is safe to retry.
func answer[Request, Response any](
	ctx context.Context,
	method func(context.Context, *Request, ...grpc.CallOption) (*Response, error), request *Request,
) (response *Response, err error) {
	err = untilAnswered(ctx, func(ctx context.Context) (err error) {
		response, err = method(ctx, request)
		return err
	})
	return response, err
}

// payments stores each request id with the intended write until there is a response.
func payments(ctx context.Context, credit creditpb.CreditServiceClient, customer int64) error {
	booked, err := answer(ctx, credit.CreateLoan, &creditpb.CreateLoanRequest{
		RequestId:    uuid.NewString(),
		CustomerId:   customer,
		LoanAmount:   rupees(10000),
		InterestRate: &decimal.Decimal{Value: "12.5"},
		TenureMonths: 12,
	})
	if err != nil {
		return err
	}
	if !booked.Approved {
		return fmt.Errorf("declined: %v", booked.Reasons)
	}
	loan := booked.Loan.LoanId

	// A payment settles installments in order. State PaidOn if it was made on an earlier day.
	paid, err := answer(ctx, credit.RecordPayment, &creditpb.RecordPaymentRequest{
		RequestId:  uuid.NewString(),
		CustomerId: customer,
		LoanId:     loan,
		Amount:     booked.Loan.MonthlyInstallment,
	})
	if err != nil {
		return err
	}
	fmt.Println("paid: installments settled", paid.Loan.InstallmentsSettled)

	// It bounced. The reversal is a new fact, and the loan is what it is without the payment.
	reversed, err := answer(ctx, credit.ReversePayment, &creditpb.ReversePaymentRequest{
		RequestId: uuid.NewString(),
		PaymentId: paid.Payment.PaymentId,
		Reason:    creditpb.PaymentReversalReason_PAYMENT_REVERSAL_REASON_BOUNCED,
	})
	if err != nil {
		return err
	}
	fmt.Println("bounced: installments settled", reversed.Loan.InstallmentsSettled)

	// A prepayment repays principal at once. Show the customer its new schedule first.
	prepayment := &creditpb.RecordPaymentRequest{
		RequestId:        uuid.NewString(),
		CustomerId:       customer,
		LoanId:           loan,
		Amount:           rupees(4000),
		Purpose:          creditpb.PaymentPurpose_PAYMENT_PURPOSE_PART_PREPAYMENT,
		PrepaymentEffect: creditpb.PrepaymentEffect_PREPAYMENT_EFFECT_REDUCE_TENURE,
		ValidateOnly:     true,
	}
	planned, err := answer(ctx, credit.RecordPayment, prepayment)
	if err != nil {
		return err
	}
	fmt.Println("a prepayment would leave", len(planned.Schedule), "installments")
	// Nothing was stored, and the request id is unused.
	prepayment.ValidateOnly = false
	prepaid, err := answer(ctx, credit.RecordPayment, prepayment)
	if err != nil {
		return err
	}
	fmt.Println("prepaid: outstanding", amount(prepaid.Loan.Outstanding))

	// A quote holds for one day. Its total closes the loan, and a different amount is rejected.
	quote, err := answer(ctx, credit.GetForeclosureQuote, &creditpb.GetForeclosureQuoteRequest{
		CustomerId: customer, LoanId: loan,
	})
	if err != nil {
		return err
	}
	foreclosed, err := answer(ctx, credit.RecordPayment, &creditpb.RecordPaymentRequest{
		RequestId:  uuid.NewString(),
		CustomerId: customer,
		LoanId:     loan,
		Amount:     quote.Total,
		PaidOn:     quote.PaidOn,
		Purpose:    creditpb.PaymentPurpose_PAYMENT_PURPOSE_FORECLOSURE,
	})
	if err != nil {
		return err
	}
	fmt.Printf("foreclosed for %s: %v\n", amount(quote.Total), foreclosed.Loan.State)

	// Only the fields of the mask change. The limit follows the income unless it was set.
	changed, err := answer(ctx, credit.UpdateCustomer, &creditpb.UpdateCustomerRequest{
		RequestId:  uuid.NewString(),
		Customer:   &creditpb.Customer{CustomerId: customer, MonthlyIncome: rupees(90000)},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"monthly_income"}},
	})
	if err != nil {
		return err
	}
	fmt.Println("new limit:", amount(changed.Customer.ApprovedLimit))
	return nil
}
