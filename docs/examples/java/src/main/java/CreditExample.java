import com.google.gson.Gson;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import com.google.type.Date;
import com.google.type.Decimal;
import com.google.type.Money;
import credit_service.v1.CreditServiceGrpc;
import credit_service.v1.CreditServiceGrpc.CreditServiceBlockingStub;
import credit_service.v1.CreditServiceOuterClass.CheckEligibilityRequest;
import credit_service.v1.CreditServiceOuterClass.CreateLoanRequest;
import credit_service.v1.CreditServiceOuterClass.RegisterCustomerRequest;
import credit_service.v1.IngestionOuterClass.IngestionKind;
import credit_service.v1.IngestionOuterClass.LoanRow;
import credit_service.v1.IngestionServiceGrpc;
import credit_service.v1.IngestionServiceGrpc.IngestionServiceStub;
import credit_service.v1.IngestionServiceOuterClass.IngestRowsHeader;
import credit_service.v1.IngestionServiceOuterClass.IngestRowsRequest;
import credit_service.v1.IngestionServiceOuterClass.IngestRowsResponse;
import credit_service.v1.IngestionServiceOuterClass.LoanRows;
import credit_service.v1.IngestionServiceOuterClass.RowBatch;
import io.grpc.CallCredentials;
import io.grpc.ChannelCredentials;
import io.grpc.CompositeChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.Executor;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

/**
 * A client of the credit service: connect, register a customer, send a row, check, book once, handle errors.
 *
 * <pre>CREDIT_ADDRESS=127.0.0.1:50051 mvn compile exec:java</pre>
 *
 * CREDIT_SERVER_CA names a PEM file of the authorities to trust, CREDIT_TOKEN_FILE a file with a bearer token;
 * replace it before the token expires.
 */
public final class CreditExample {
  private static final long DEADLINE_SECONDS = 5;
  private static final long PATIENCE_SECONDS = 60;
  private static final long LONGEST_PAUSE_MILLIS = 5_000;
  private static final Path SERVICE_CONFIG = Path.of("../service-config.json");

  // Connect.

  /** Sends the token of a file, which is read for each call. */
  private static final class Bearer extends CallCredentials {
    private static final Metadata.Key<String> AUTHORIZATION =
        Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
    private final Path file;

    Bearer(Path file) {
      this.file = file;
    }

    @Override
    public void applyRequestMetadata(RequestInfo call, Executor executor, MetadataApplier applier) {
      executor.execute(
          () -> {
            try {
              Metadata headers = new Metadata();
              headers.put(AUTHORIZATION, "Bearer " + Files.readString(file).strip());
              applier.apply(headers);
            } catch (IOException error) {
              applier.fail(Status.UNAUTHENTICATED.withCause(error));
            }
          });
    }
  }

  /** Opens a channel with the standard retry policy. The token is sent over TLS only. */
  private static ManagedChannel connect(String address, String ca, String tokenFile) throws IOException {
    ChannelCredentials credentials = InsecureChannelCredentials.create();
    if (ca != null) {
      credentials = TlsChannelCredentials.newBuilder().trustManager(new File(ca)).build();
      if (tokenFile != null) {
        credentials = CompositeChannelCredentials.create(credentials, new Bearer(Path.of(tokenFile)));
      }
    }
    Map<String, ?> serviceConfig = new Gson().<Map<String, ?>>fromJson(Files.readString(SERVICE_CONFIG), Map.class);
    return Grpc.newChannelBuilder(address, credentials).defaultServiceConfig(serviceConfig).enableRetry().build();
  }

  // Handle errors.

  /** A failed call: status and reason for the program, message and fields for people. */
  private static final class RefusedException extends RuntimeException {
    final Status.Code code;
    final Map<String, String> fields = new LinkedHashMap<>();
    String reason = "";
    long retryAfterMillis;

    RefusedException(StatusRuntimeException failed) {
      super(failed.getStatus().getDescription(), failed);
      code = failed.getStatus().getCode();
      com.google.rpc.Status status = StatusProto.fromThrowable(failed);
      try {
        for (Any detail : status.getDetailsList()) {
          if (detail.is(ErrorInfo.class)) {
            reason = detail.unpack(ErrorInfo.class).getReason();
          } else if (detail.is(BadRequest.class)) {
            for (var each : detail.unpack(BadRequest.class).getFieldViolationsList()) {
              fields.put(each.getField(), each.getDescription());
            }
          } else if (detail.is(RetryInfo.class)) {
            var delay = detail.unpack(RetryInfo.class).getRetryDelay();
            retryAfterMillis = TimeUnit.SECONDS.toMillis(delay.getSeconds()) + delay.getNanos() / 1_000_000;
          }
        }
      } catch (InvalidProtocolBufferException error) {
        throw new IllegalStateException("a detail of the status is damaged", error);
      }
    }

    /** Whether the call may have taken effect with a lost response: retrying with the same id is safe. */
    boolean isWorthRepeating() {
      return Set.of(
              Status.Code.UNAVAILABLE,
              Status.Code.DEADLINE_EXCEEDED,
              Status.Code.CANCELLED,
              Status.Code.ABORTED,
              Status.Code.RESOURCE_EXHAUSTED)
          .contains(code);
    }
  }

  /** Retries a call that is safe to retry: a read, or a write with a request id. */
  private static <T> T answer(Supplier<T> call) throws InterruptedException {
    long giveUpAt = System.nanoTime() + TimeUnit.SECONDS.toNanos(PATIENCE_SECONDS);
    for (long pause = 100; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MILLIS)) {
      try {
        return call.get();
      } catch (StatusRuntimeException error) {
        RefusedException refused = new RefusedException(error);
        if (!refused.isWorthRepeating() || System.nanoTime() > giveUpAt) {
          throw refused;
        }
        Thread.sleep(Math.max(refused.retryAfterMillis, ThreadLocalRandom.current().nextLong(pause / 2, pause)));
      }
    }
  }

  // Send rows.

  /**
   * Sends loans under an id that was stored before. Sending the same rows again under the same id stores nothing
   * twice, so the stream is repeated whole; for more than one batch, continue at committed_offset instead.
   */
  private static IngestRowsResponse send(IngestionServiceStub ingestion, String id, LoanRows rows) {
    CompletableFuture<IngestRowsResponse> response = new CompletableFuture<>();
    StreamObserver<IngestRowsRequest> stream =
        ingestion
            .withDeadlineAfter(DEADLINE_SECONDS, TimeUnit.SECONDS)
            .ingestRows(
                new StreamObserver<>() {
                  @Override
                  public void onNext(IngestRowsResponse value) {
                    response.complete(value);
                  }

                  @Override
                  public void onError(Throwable error) {
                    response.completeExceptionally(error);
                  }

                  @Override
                  public void onCompleted() {}
                });
    var header = IngestRowsHeader.newBuilder().setIngestionId(id).setKind(IngestionKind.INGESTION_KIND_LOANS);
    stream.onNext(IngestRowsRequest.newBuilder().setHeader(header).build());
    var batch = RowBatch.newBuilder().setOffset(0).setLoans(rows);
    stream.onNext(IngestRowsRequest.newBuilder().setBatch(batch).build());
    stream.onCompleted();
    try {
      return response.join();
    } catch (CompletionException error) {
      throw Status.fromThrowable(error.getCause()).asRuntimeException(Status.trailersFromThrowable(error.getCause()));
    }
  }

  // Usage.

  private static Money rupees(long units) {
    return Money.newBuilder().setCurrencyCode("INR").setUnits(units).build();
  }

  private static Decimal percent(String value) {
    return Decimal.newBuilder().setValue(value).build();
  }

  private static void run(ManagedChannel channel) throws InterruptedException {
    CreditServiceBlockingStub service = CreditServiceGrpc.newBlockingStub(channel);
    // Each attempt has a deadline of its own.
    Supplier<CreditServiceBlockingStub> credit =
        () -> service.withDeadlineAfter(DEADLINE_SECONDS, TimeUnit.SECONDS);

    // Generate the ids and store them with the intended write until you have the response.
    var registration =
        RegisterCustomerRequest.newBuilder()
            .setRequestId(UUID.randomUUID().toString())
            .setFirstName("Kavya")
            .setLastName("Shah")
            .setAge(29)
            .setMonthlyIncome(rupees(80_000))
            .setPhoneNumber("9876598804")
            .build();
    long customer = answer(() -> credit.get().registerCustomer(registration)).getCustomer().getCustomerId();

    var repaid =
        LoanRow.newBuilder()
            .setCustomerId(customer)
            .setLoanId(2)
            .setLoanAmount(rupees(800_000))
            .setTenureMonths(12)
            .setInterestRate(percent("10"))
            .setMonthlyInstallment(rupees(70_333))
            .setEmisPaidOnTime(12)
            .setStartDate(Date.newBuilder().setYear(2022).setMonth(5).setDay(31));
    var rows = LoanRows.newBuilder().addRows(repaid).build();
    var ingestions = IngestionServiceGrpc.newStub(channel);
    String ingestionId = UUID.randomUUID().toString();
    var done = answer(() -> send(ingestions, ingestionId, rows)).getIngestion();
    System.out.printf("rows read: %d rejected: %d%n", done.getRowsRead(), done.getRejected());

    var check =
        CheckEligibilityRequest.newBuilder()
            .setCustomerId(customer)
            .setLoanAmount(rupees(50_000))
            .setInterestRate(percent("12.5"))
            .setTenureMonths(12)
            .build();
    var eligibility = answer(() -> credit.get().checkEligibility(check));
    System.out.println(eligibility.getApproved() ? "checked: approved" : "checked: not approved");

    var ask =
        CreateLoanRequest.newBuilder()
            .setRequestId(UUID.randomUUID().toString())
            .setCustomerId(customer)
            .setLoanAmount(check.getLoanAmount())
            .setInterestRate(check.getInterestRate())
            .setTenureMonths(check.getTenureMonths())
            .build();
    var booked = answer(() -> credit.get().createLoan(ask));
    // A decline is a response, too; its reasons and counter-offer state what would be approved.
    System.out.println(booked.getMessage());
    var again = answer(() -> credit.get().createLoan(ask));
    boolean isSame = again.getLoan().getLoanId() == booked.getLoan().getLoanId();
    System.out.println(isSame ? "repeated: the same loan" : "repeated: another loan");

    try {
      var invalid = CheckEligibilityRequest.newBuilder().setCustomerId(customer).setTenureMonths(481).build();
      answer(() -> credit.get().checkEligibility(invalid));
    } catch (RefusedException refused) {
      System.out.printf("%s (%s)%n", refused.code, refused.reason);
      refused.fields.forEach((field, problem) -> System.out.printf("  %s: %s%n", field, problem));
    }
  }

  public static void main(String[] arguments) throws Exception {
    String address = System.getenv().getOrDefault("CREDIT_ADDRESS", "127.0.0.1:50051");
    ManagedChannel channel =
        connect(address, System.getenv("CREDIT_SERVER_CA"), System.getenv("CREDIT_TOKEN_FILE"));
    try {
      run(channel);
    } finally {
      channel.shutdown();
      channel.awaitTermination(DEADLINE_SECONDS, TimeUnit.SECONDS);
    }
  }
}
