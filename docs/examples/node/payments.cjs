// Payments of a loan: record one, reverse it, prepay, foreclose; and change a customer's facts.
//
//     CREDIT_ADDRESS=127.0.0.1:50051 node payments.cjs ../../../protos GOOGLEAPIS CUSTOMER_ID
//
// Books a small loan for the customer and repays it. Uses the functions of credit_client.cjs, which
// names the settings and folders.
const {randomUUID} = require('node:crypto');
const {CreditService, answerOf, endpointFromEnvironment, rupees} = require('./credit_client.cjs');

// Rupees with paise.
const amount = ({units, nanos}) => `${units}.${String(nanos / 1e7).padStart(2, '0')}`;

// Store each request_id with the intended write until there is a response.
async function main() {
  const credit = new CreditService(...endpointFromEnvironment());
  const customer_id = process.argv[4];
  const booked = await answerOf(credit, 'CreateLoan', {
    request_id: randomUUID(),
    customer_id,
    loan_amount: rupees(10000),
    interest_rate: {value: '12.5'},
    tenure_months: 12,
  });
  if (!booked.approved) throw new Error(JSON.stringify(booked.reasons));
  const loan = {customer_id, loan_id: booked.loan.loan_id};

  // A payment settles installments in order. State `paid_on` if it was made on an earlier day.
  const paid = await answerOf(credit, 'RecordPayment', {
    request_id: randomUUID(),
    ...loan,
    amount: booked.loan.monthly_installment,
  });
  console.log('paid: installments settled', paid.loan.installments_settled);

  // It bounced. The reversal is a new fact, and the loan is what it is without the payment.
  const reversed = await answerOf(credit, 'ReversePayment', {
    request_id: randomUUID(),
    payment_id: paid.payment.payment_id,
    reason: 'PAYMENT_REVERSAL_REASON_BOUNCED',
  });
  console.log('bounced: installments settled', reversed.loan.installments_settled);

  // A prepayment repays principal at once. Show the customer its new schedule first.
  const prepayment = {
    request_id: randomUUID(),
    ...loan,
    amount: rupees(4000),
    purpose: 'PAYMENT_PURPOSE_PART_PREPAYMENT',
    prepayment_effect: 'PREPAYMENT_EFFECT_REDUCE_TENURE',
  };
  const planned = await answerOf(credit, 'RecordPayment', {...prepayment, validate_only: true});
  console.log('a prepayment would leave', planned.schedule.length, 'installments');
  // Nothing was stored, and the request_id is unused.
  const prepaid = await answerOf(credit, 'RecordPayment', prepayment);
  console.log('prepaid: outstanding', amount(prepaid.loan.outstanding));

  // A quote holds for one day. Its total closes the loan, and a different amount is rejected.
  const {total, paid_on} = await answerOf(credit, 'GetForeclosureQuote', loan);
  const foreclosed = await answerOf(credit, 'RecordPayment', {
    request_id: randomUUID(),
    ...loan,
    amount: total,
    paid_on,
    purpose: 'PAYMENT_PURPOSE_FORECLOSURE',
  });
  console.log(`foreclosed for ${amount(total)}:`, foreclosed.loan.state);

  // Only the fields of the mask change. The limit follows the income unless it was set.
  const changed = await answerOf(credit, 'UpdateCustomer', {
    request_id: randomUUID(),
    customer: {customer_id, monthly_income: rupees(90000)},
    update_mask: {paths: ['monthly_income']},
  });
  console.log('new limit:', amount(changed.customer.approved_limit));
  credit.close();
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
