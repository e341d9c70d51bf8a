// A client of the credit service: connect, book once, offer and accept, check in batches, handle errors,
// stream rows, follow events.
//
//     CREDIT_ADDRESS=127.0.0.1:50051 node credit_client.cjs ../../../protos GOOGLEAPIS
//
// GOOGLEAPIS is the folder that has google/type/money.proto and google/rpc/error_details.proto.
// CREDIT_SERVER_CA names a PEM file of the authorities to trust, CREDIT_TOKEN_FILE a file with a bearer
// token; replace it before the token expires.
const {randomUUID} = require('node:crypto');
const {readFileSync} = require('node:fs');
const path = require('node:path');
const {setTimeout: pause} = require('node:timers/promises');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const DEADLINE_MS = 5_000;
const PATIENCE_MS = 60_000;
const BATCH_ROWS = 1_000;
const SERVICE_CONFIG = readFileSync(path.join(__dirname, '..', 'service-config.json'), 'utf8');
const includeDirs = process.argv.slice(2, 4);

const definition = protoLoader.loadSync(
  ['credit_service/v1/credit_service.proto', 'credit_service/v1/ingestion_service.proto'],
  {keepCase: true, longs: String, enums: String, defaults: true, oneofs: true, includeDirs},
);
const {CreditService, IngestionService} =
  grpc.loadPackageDefinition(definition).credit_service.v1;

// Connect.

// Arguments of a client: the address, credentials, and the standard retry policy.
function endpoint(address, ca, tokenFile) {
  const options = {'grpc.service_config': SERVICE_CONFIG};
  if (!ca) return [address, grpc.credentials.createInsecure(), options];
  const tls = grpc.credentials.createSsl(readFileSync(ca));
  if (!tokenFile) return [address, tls, options];
  // The file is read for each call.
  const bearer = grpc.credentials.createFromMetadataGenerator((_, done) => {
    const metadata = new grpc.Metadata();
    try {
      metadata.set('authorization', `Bearer ${readFileSync(tokenFile, 'utf8').trim()}`);
    } catch (error) {
      return done(error);
    }
    done(null, metadata);
  });
  return [address, grpc.credentials.combineChannelCredentials(tls, bearer), options];
}

// Arguments of a client of CREDIT_ADDRESS.
function endpointFromEnvironment() {
  const {CREDIT_ADDRESS = '127.0.0.1:50051', CREDIT_SERVER_CA, CREDIT_TOKEN_FILE} = process.env;
  return endpoint(CREDIT_ADDRESS, CREDIT_SERVER_CA, CREDIT_TOKEN_FILE);
}

// Handle errors.

const details = new protobuf.Root();
details.resolvePath = (_, name) =>
  includeDirs.map((folder) => path.join(folder, name)).find((file) => {
    try {
      return readFileSync(file) && true;
    } catch {
      return false;
    }
  }) ?? name;
details.loadSync(['google/rpc/status.proto', 'google/rpc/error_details.proto'], {keepCase: true});

// A failed call: status and reason for the program, message and fields for people.
class Refused extends Error {
  constructor(error) {
    super(error.details);
    this.code = error.code;
    this.reason = '';
    this.metadata = {};
    this.fields = {};
    this.retryAfterMs = 0;
    const [bytes] = error.metadata?.get('grpc-status-details-bin') ?? [];
    if (!bytes) return;
    for (const any of details.lookupType('google.rpc.Status').decode(bytes).details) {
      const type = details.lookupType(any.type_url.split('/').pop());
      const detail = type.toObject(type.decode(any.value), {longs: Number});
      if (type.name === 'ErrorInfo') {
        this.reason = detail.reason;
        this.metadata = detail.metadata ?? {};
      } else if (type.name === 'BadRequest') {
        for (const each of detail.field_violations) this.fields[each.field] = each.description;
      } else if (type.name === 'RetryInfo') {
        const {seconds = 0, nanos = 0} = detail.retry_delay;
        this.retryAfterMs = seconds * 1000 + nanos / 1e6;
      }
    }
  }
}

// Retry until there is a response.

// The call may have taken effect with a lost response: retrying with the same request_id is safe.
const WORTH_REPEATING = new Set([
  grpc.status.UNAVAILABLE,
  grpc.status.DEADLINE_EXCEEDED,
  grpc.status.ABORTED,
  grpc.status.RESOURCE_EXHAUSTED,
]);

const once = (client, method, request) =>
  new Promise((resolve, reject) =>
    client[method](request, {deadline: Date.now() + DEADLINE_MS}, (error, answer) =>
      error ? reject(new Refused(error)) : resolve(answer),
    ),
  );

// The response to a request that is safe to retry: a read, or a write with a request_id.
async function answerOf(client, method, request) {
  const giveUpAt = Date.now() + PATIENCE_MS;
  for (let pauseMs = 100; ; pauseMs = Math.min(pauseMs * 2, 5_000)) {
    try {
      return await once(client, method, request);
    } catch (refused) {
      if (!WORTH_REPEATING.has(refused.code) || Date.now() > giveUpAt) throw refused;
      await pause(Math.max(refused.retryAfterMs, pauseMs * (0.5 + Math.random() / 2)));
    }
  }
}

// Stream rows, each exactly once.

// Sends rows under an id that was stored before the first row was sent. After a failure, it continues
// from the service's committed_offset: no row is lost or stored twice.
async function ingest(client, ingestion_id, kind, rows) {
  const giveUpAt = Date.now() + PATIENCE_MS;
  const again = new Set([...WORTH_REPEATING, grpc.status.OUT_OF_RANGE, grpc.status.CANCELLED]);
  for (;;) {
    try {
      const offset = await committedOffset(client, ingestion_id);
      return await send(client, ingestion_id, kind, rows, offset);
    } catch (refused) {
      if (!again.has(refused.code) || Date.now() > giveUpAt) throw refused;
      await pause(Math.max(refused.retryAfterMs, 100 + 400 * Math.random()));
    }
  }
}

async function committedOffset(client, ingestion_id) {
  try {
    const {ingestion} = await answerOf(client, 'GetIngestion', {ingestion_id});
    return Number(ingestion.committed_offset);
  } catch (refused) {
    if (refused.reason === 'INGESTION_NOT_FOUND') return 0;
    throw refused;
  }
}

function send(client, ingestion_id, kind, rows, offset) {
  return new Promise((resolve, reject) => {
    const stream = client.IngestRows({deadline: Date.now() + PATIENCE_MS}, (error, answer) =>
      error ? reject(new Refused(error)) : resolve(answer),
    );
    stream.on('error', () => {}); // the callback reports it
    const field = kind === 'INGESTION_KIND_CUSTOMERS' ? 'customers' : 'loans';
    (async () => {
      const batches = [{header: {ingestion_id, kind}}];
      for (let first = offset; first < rows.length; first += BATCH_ROWS) {
        const some = rows.slice(first, first + BATCH_ROWS);
        batches.push({batch: {offset: first, [field]: {rows: some}}});
      }
      for (const message of batches) {
        // Backpressure: wait until the connection drains.
        if (!stream.write(message)) await new Promise((go) => stream.once('drain', go));
      }
      stream.end();
    })();
  });
}

// Follow events.

// A customer's events without end, each once and in order, across connection failures and restarts.
// Store the event_id of each event in the same transaction as its effect; start after the last one.
async function* follow(client, after_event_id, customer_id) {
  for (;;) {
    const stream = client.WatchCreditEvents({after_event_id, customer_id});
    let admitted = false;
    try {
      for await (const response of stream) {
        admitted = true;
        if (response.message === 'event') {
          after_event_id = response.event.event_id;
          yield response.event;
        } else {
          // Events that the filter excluded need not be sent again.
          after_event_id = response.heartbeat.last_event_id;
        }
      }
    } catch (error) {
      const refused = new Refused(error);
      // The token has expired; the file may contain a new one.
      const tokenIsOver = admitted && refused.code === grpc.status.UNAUTHENTICATED;
      if (!WORTH_REPEATING.has(refused.code) && !tokenIsOver) throw refused;
    } finally {
      stream.cancel();
    }
    await pause(100 + 900 * Math.random());
  }
}

// Usage.

const rupees = (units) => ({currency_code: 'INR', units});

async function main() {
  const where = endpointFromEnvironment();
  const credit = new CreditService(...where);
  const ingestion = new IngestionService(...where);

  // Generate the ids and store them with the intended write until you have the response.
  const customer_id = 880000002;
  const customer = {
    customer_id,
    first_name: 'Ravi',
    last_name: 'Menon',
    age: 45,
    phone_number: '9876598802',
    monthly_income: rupees(80000),
  };
  const loan = {
    customer_id,
    loan_id: 1,
    loan_amount: rupees(800000),
    tenure_months: 12,
    interest_rate: {value: '10'},
    monthly_installment: rupees(70333),
    emis_paid_on_time: 12,
    start_date: {year: 2022, month: 5, day: 31},
  };
  for (const [kind, rows] of [
    ['INGESTION_KIND_CUSTOMERS', [customer]],
    ['INGESTION_KIND_LOANS', [loan]],
  ]) {
    const done = await ingest(ingestion, randomUUID(), kind, rows);
    console.log('rows read:', done.ingestion.rows_read, 'rejected:', done.ingestion.rejected);
    for (const each of done.row_errors) console.log(`  row ${each.row_number}: ${each.message}`);
  }

  const ask = {
    request_id: randomUUID(),
    customer_id,
    loan_amount: rupees(50000),
    interest_rate: {value: '12.5'},
    tenure_months: 12,
  };
  const booked = await answerOf(credit, 'CreateLoan', ask);
  console.log(booked.message);
  // A decline is a response, too; its reasons and counter_offer state what would be approved.
  if (!booked.approved) throw new Error(JSON.stringify(booked.reasons));
  // A retry, as after a lost response, returns the same loan and books no second one.
  const again = await answerOf(credit, 'CreateLoan', ask);
  if (again.loan.loan_id !== booked.loan.loan_id) throw new Error('a second loan');
  console.log('retried: the same loan');

  // An offer holds its credit until it is accepted or withdrawn, or its last day is over.
  const {offer} = await answerOf(credit, 'CreateLoanOffer', {
    request_id: randomUUID(),
    customer_id,
    loan_amount: rupees(25000),
    interest_rate: {value: '12.5'},
    tenure_months: 12,
  });
  const accepted = await answerOf(credit, 'AcceptLoanOffer', {
    request_id: randomUUID(),
    offer_id: offer.offer_id,
    loan_amount: rupees(20000),
  });
  console.log(`offered ₹${offer.loan_amount.units}, lent ₹${accepted.loan.loan_amount.units}`);

  try {
    await answerOf(credit, 'CheckEligibility', {customer_id, tenure_months: 481});
  } catch (refused) {
    console.log(`${grpc.status[refused.code]} (${refused.reason})`);
    for (const [field, problem] of Object.entries(refused.fields)) {
      console.log(`  ${field}: ${problem}`);
    }
  }

  // Many checks in one call: each result is at the place of its ask.
  const small = {
    customer_id,
    loan_amount: rupees(10000),
    interest_rate: {value: '12.5'},
    tenure_months: 12,
  };
  const asks = [small, {customer_id, tenure_months: 481}];
  for (const each of (await answerOf(credit, 'BatchCheckEligibility', {asks})).results) {
    if (each.result === 'error') console.log('checked: error', each.error.code);
    else console.log('checked:', each.eligibility.approved ? 'approved' : 'not approved');
  }

  for await (const event of follow(credit, 0, customer_id)) {
    console.log('event:', event.payload);
    if (event.loan_created?.loan.loan_id === booked.loan.loan_id) break;
  }
  credit.close();
  ingestion.close();
}

module.exports = {CreditService, answerOf, endpointFromEnvironment, rupees};

if (require.main === module) {
  main().catch((error) => {
    console.error(error);
    process.exitCode = 1;
  });
}
