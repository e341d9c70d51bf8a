//! A client of the credit service: connect, register a customer, send a row, check, book once, handle errors.
//!
//!     CREDIT_ADDRESS=127.0.0.1:50051 cargo run
//!
//! CREDIT_SERVER_CA names a PEM file of the authorities to trust, CREDIT_TOKEN_FILE a file with a bearer token;
//! replace it before the token expires.

use std::{env, error::Error, fmt, fs, path::PathBuf, time::Duration};

use tokio::time::{Instant, sleep};
use tonic::metadata::MetadataValue;
use tonic::service::{Interceptor, interceptor::InterceptedService};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use credit_service::v1::credit_service_client::CreditServiceClient;
use credit_service::v1::ingest_rows_request::Payload;
use credit_service::v1::ingestion_service_client::IngestionServiceClient;
use credit_service::v1::{
    CheckEligibilityRequest, CreateLoanRequest, IngestRowsHeader, IngestRowsRequest, IngestionKind,
    LoanRow, LoanRows, RegisterCustomerRequest, RowBatch, row_batch::Rows,
};
use google::r#type::{Date, Decimal, Money};

/// The generated code of the contract.
pub mod credit_service {
    pub mod v1 {
        tonic::include_proto!("credit_service.v1");
    }
}

pub mod google {
    pub mod r#type {
        tonic::include_proto!("google.r#type");
    }
}

const DEADLINE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

// Connect.

/// Sends the token of a file, which is read for each call.
#[derive(Clone)]
struct Bearer(Option<PathBuf>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(file) = &self.0 {
            let unusable = |error: &dyn fmt::Display| {
                Status::unauthenticated(format!("{}: {error}", file.display()))
            };
            let token = fs::read_to_string(file).map_err(|error| unusable(&error))?;
            let value = MetadataValue::try_from(format!("Bearer {}", token.trim()));
            let value = value.map_err(|error| unusable(&error))?;
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

type Connection = InterceptedService<Channel, Bearer>;

/// Opens a channel that connects with the first call. The token is sent over TLS only.
fn connect(
    address: &str,
    ca: Option<PathBuf>,
    token_file: Option<PathBuf>,
) -> Result<Connection, Box<dyn Error>> {
    let Some(ca) = ca else {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        return Ok(InterceptedService::new(endpoint.connect_lazy(), Bearer(None)));
    };
    let trusted = Certificate::from_pem(fs::read(ca)?);
    let endpoint = Endpoint::from_shared(format!("https://{address}"))?
        .tls_config(ClientTlsConfig::new().ca_certificate(trusted))?;
    Ok(InterceptedService::new(endpoint.connect_lazy(), Bearer(token_file)))
}

// Handle errors.

/// A failed call: status and reason for the program, message and fields for people.
#[derive(Debug)]
struct Refused {
    code: Code,
    reason: String,
    message: String,
    fields: Vec<(String, String)>,
    retry_after: Duration,
}

impl Refused {
    fn new(status: &Status) -> Self {
        let details = status.get_error_details();
        let invalid = details.bad_request().map(|each| each.field_violations.clone());
        Self {
            code: status.code(),
            reason: details.error_info().map(|info| info.reason.clone()).unwrap_or_default(),
            message: status.message().to_owned(),
            fields: invalid
                .unwrap_or_default()
                .into_iter()
                .map(|each| (each.field, each.description))
                .collect(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay).unwrap_or_default(),
        }
    }

    /// Whether the call may have taken effect with a lost response: retrying with the same id is safe.
    fn is_worth_repeating(&self) -> bool {
        matches!(
            self.code,
            Code::Unavailable
                | Code::DeadlineExceeded
                | Code::Cancelled
                | Code::Aborted
                | Code::ResourceExhausted
        )
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} ({}): {}", self.code, self.reason, self.message)
    }
}

impl Error for Refused {}

/// Retries a call that is safe to retry: a read, or a write with a request id. tonic reads no service config.
async fn answer<M, R>(
    message: &M,
    mut call: impl AsyncFnMut(Request<M>) -> Result<Response<R>, Status>,
) -> Result<R, Refused>
where
    M: Clone,
{
    let give_up_at = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(100);
    loop {
        let mut request = Request::new(message.clone());
        request.set_timeout(DEADLINE);
        let refused = match call(request).await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) => Refused::new(&status),
        };
        if !refused.is_worth_repeating() || Instant::now() > give_up_at {
            return Err(refused);
        }
        sleep(refused.retry_after.max(pause.mul_f64(0.5 + fastrand::f64() / 2.0))).await;
        pause = LONGEST_PAUSE.min(2 * pause);
    }
}

// Usage.

fn rupees(units: i64) -> Option<Money> {
    Some(Money { currency_code: "INR".into(), units, nanos: 0 })
}

fn percent(value: &str) -> Option<Decimal> {
    Some(Decimal { value: value.into() })
}

/// The messages that send loans under an id that was stored before.
///
/// Sending the same rows again under the same id stores nothing twice, so the stream is repeated whole; for
/// more than one batch, continue at `committed_offset` instead.
fn messages(ingestion_id: &str, rows: Vec<LoanRow>) -> [IngestRowsRequest; 2] {
    let header = IngestRowsHeader {
        ingestion_id: ingestion_id.into(),
        kind: IngestionKind::Loans.into(),
        ..Default::default()
    };
    let batch = RowBatch { offset: 0, rows: Some(Rows::Loans(LoanRows { rows })) };
    [Payload::Header(header), Payload::Batch(batch)]
        .map(|payload| IngestRowsRequest { payload: Some(payload) })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::var("CREDIT_ADDRESS").unwrap_or_else(|_| "127.0.0.1:50051".into());
    let file = |variable| env::var_os(variable).map(PathBuf::from);
    let connection = connect(&address, file("CREDIT_SERVER_CA"), file("CREDIT_TOKEN_FILE"))?;
    let mut credit = CreditServiceClient::new(connection.clone());
    let mut ingestions = IngestionServiceClient::new(connection);

    // Generate the ids and store them with the intended write until you have the response.
    let registration = RegisterCustomerRequest {
        request_id: Uuid::new_v4().to_string(),
        first_name: "Kavya".into(),
        last_name: "Shah".into(),
        age: 29,
        monthly_income: rupees(80_000),
        phone_number: "9876598805".into(),
        ..Default::default()
    };
    let registered = answer(&registration, async |each| credit.register_customer(each).await).await?;
    let customer_id = registered.customer.unwrap_or_default().customer_id;

    let repaid = LoanRow {
        customer_id: Some(customer_id),
        loan_id: Some(3),
        loan_amount: rupees(800_000),
        tenure_months: Some(12),
        interest_rate: percent("10"),
        monthly_installment: rupees(70_333),
        emis_paid_on_time: Some(12),
        start_date: Some(Date { year: 2022, month: 5, day: 31 }),
        ..Default::default()
    };
    let rows = messages(&Uuid::new_v4().to_string(), vec![repaid]);
    let sent = answer(&rows, async |each| ingestions.ingest_rows(each.map(tokio_stream::iter)).await);
    let done = sent.await?.ingestion.unwrap_or_default();
    println!("rows read: {} rejected: {}", done.rows_read, done.rejected);

    let check = CheckEligibilityRequest {
        customer_id,
        loan_amount: rupees(50_000),
        interest_rate: percent("12.5"),
        tenure_months: 12,
        ..Default::default()
    };
    let eligibility = answer(&check, async |each| credit.check_eligibility(each).await).await?;
    println!("checked: {}", if eligibility.approved { "approved" } else { "not approved" });

    let ask = CreateLoanRequest {
        request_id: Uuid::new_v4().to_string(),
        customer_id,
        loan_amount: check.loan_amount.clone(),
        interest_rate: check.interest_rate.clone(),
        tenure_months: check.tenure_months,
        ..Default::default()
    };
    let booked = answer(&ask, async |each| credit.create_loan(each).await).await?;
    // A decline is a response, too; its reasons and counter-offer state what would be approved.
    println!("{}", booked.message);
    let again = answer(&ask, async |each| credit.create_loan(each).await).await?;
    let is_same = again.loan.map(|loan| loan.loan_id) == booked.loan.map(|loan| loan.loan_id);
    println!("repeated: {}", if is_same { "the same loan" } else { "another loan" });

    let invalid = CheckEligibilityRequest { customer_id, tenure_months: 481, ..Default::default() };
    if let Err(refused) = answer(&invalid, async |each| credit.check_eligibility(each).await).await {
        println!("{:?} ({})", refused.code, refused.reason);
        for (field, problem) in refused.fields {
            println!("  {field}: {problem}");
        }
    }
    Ok(())
}
