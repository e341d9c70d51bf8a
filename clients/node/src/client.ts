/** One object for all calls of the service. */

import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { setTimeout as pause } from "node:timers/promises";
import type { DescService, MessageInitShape } from "@bufbuild/protobuf";
import {
  type CallOptions,
  type Client,
  Code,
  ConnectError,
  type Interceptor,
  createClient,
} from "@connectrpc/connect";
import { Http2SessionManager, createGrpcTransport } from "@connectrpc/connect-node";
import { ServiceError } from "./errors.js";
import { CreditService } from "./gen/credit_service/v1/credit_service_pb.js";
import type { CreditEvent, CreditEventType } from "./gen/credit_service/v1/event_pb.js";
import {
  type CustomerRowSchema,
  IngestionKind,
  type LoanRowSchema,
  OnExisting,
} from "./gen/credit_service/v1/ingestion_pb.js";
import {
  type IngestRowsRequestSchema,
  type IngestRowsResponse,
  IngestionService,
} from "./gen/credit_service/v1/ingestion_service_pb.js";
import { OperationsService } from "./gen/credit_service/v1/operations_service_pb.js";
import { ScorecardService } from "./gen/credit_service/v1/scorecard_service_pb.js";

/** Timeouts and retries. */
export interface Patience {
  /** How long a call, a stream or a watch is repeated after its first failure: 60,000 ms. */
  giveUpMs: number;
  /** The longest time of one attempt of a unary call: 10,000 ms. */
  callTimeoutMs: number;
  /** The pause after the first failure, which doubles: 200 ms. */
  firstPauseMs: number;
  /** The longest pause: 5,000 ms. */
  longestPauseMs: number;
}

/** Where the service is, and how to reach it. */
export interface Options {
  /** host:port. */
  address: string;
  /** The files of TLS in PEM: trusted authorities, and the client's certificate and key. */
  tls?: { ca: string | Buffer; certificate?: string | Buffer; privateKey?: string | Buffer };
  /** A file with a bearer token, which is read for every call. */
  tokenFile?: string;
  /** A bearer token, or a function that returns the one to use now. */
  token?: string | (() => string | Promise<string>);
  patience?: Partial<Patience>;
}

/** Rows of one kind to store. */
export type Rows =
  | { customers: MessageInitShape<typeof CustomerRowSchema>[] }
  | { loans: MessageInitShape<typeof LoanRowSchema>[] };

const BATCH_ROWS = 1_000;
const LOCAL = /^(localhost|127(\.\d+){3}|\[::1\]):\d+$/;

/**
 * Calls of the credit service over one connection.
 *
 * `credit`, `scorecards`, `ingestions` and `operations` have the methods of the contract. A unary call
 * returns its response or throws ServiceError. It gives a write without a request id a random one, and
 * repeats a call that found no server or a busy one, always with the same id. `timeoutMs` of a call is
 * the time for all attempts.
 */
export class CreditClient {
  readonly credit: Client<typeof CreditService>;
  readonly scorecards: Client<typeof ScorecardService>;
  readonly ingestions: Client<typeof IngestionService>;
  readonly operations: Client<typeof OperationsService>;
  readonly #patience: Patience;
  readonly #sessions: Http2SessionManager;
  readonly #renewsToken: boolean;

  /**
   * Connect with the first call. Throws RangeError for a token without TLS, unless the service is on
   * this machine.
   */
  constructor({ address, tls, token, tokenFile, patience }: Options) {
    if ((token !== undefined || tokenFile !== undefined) && !tls && !LOCAL.test(address)) {
      throw new RangeError(`a token needs TLS: anyone between here and ${address} could read it`);
    }
    this.#patience = {
      giveUpMs: 60_000,
      callTimeoutMs: 10_000,
      firstPauseMs: 200,
      longestPauseMs: 5_000,
      ...patience,
    };
    this.#renewsToken = tokenFile !== undefined || typeof token === "function";
    const baseUrl = `${tls ? "https" : "http"}://${address}`;
    const secured = tls && { ca: tls.ca, cert: tls.certificate, key: tls.privateKey };
    this.#sessions = new Http2SessionManager(baseUrl, { pingIntervalMs: 60_000 }, secured);
    const interceptors = tokenFile
      ? [bearer(async () => (await readFile(tokenFile, "utf8")).trim())]
      : token !== undefined
        ? [bearer(typeof token === "function" ? token : () => token)]
        : [];
    const transport = createGrpcTransport({ baseUrl, sessionManager: this.#sessions, interceptors });
    this.credit = this.#retrying(CreditService, createClient(CreditService, transport));
    this.scorecards = this.#retrying(ScorecardService, createClient(ScorecardService, transport));
    this.ingestions = this.#retrying(IngestionService, createClient(IngestionService, transport));
    this.operations = this.#retrying(OperationsService, createClient(OperationsService, transport));
  }

  /** Close the connection. */
  close(): void {
    this.#sessions.abort();
  }

  /**
   * Yield the pages of a list, which is read as far as the caller iterates:
   *
   *     for await (const page of client.pages(client.credit.listLoans, { customerId: 7n }))
   *       for (const loan of page.loans) …
   */
  async *pages<Request extends object, Page extends { nextPageToken: string }>(
    method: (request: Request, options?: CallOptions) => Promise<Page>,
    request: Request,
  ): AsyncGenerator<Page> {
    let following = request;
    for (;;) {
      const page = await method(following);
      yield page;
      if (!page.nextPageToken) return;
      following = { ...request, pageToken: page.nextPageToken };
    }
  }

  /**
   * Yield the events after an id without end, every one once and in order, across lost connections
   * and restarts. Store the id of each event together with its effect, and start after the last one.
   */
  async *watch(
    afterEventId = 0n,
    filter: { customerId?: bigint; eventTypes?: CreditEventType[] } = {},
  ): AsyncGenerator<CreditEvent> {
    const attempts = new Attempts(this.#patience);
    let admitted = false;
    for (;;) {
      try {
        for await (const { message } of this.credit.watchCreditEvents({ afterEventId, ...filter })) {
          admitted = true;
          attempts.progressed();
          if (message.case === "event") {
            afterEventId = message.value.eventId;
            yield message.value;
          } else if (message.case === "heartbeat") {
            // Events that the filter left out need not be sent again.
            afterEventId = message.value.lastEventId;
          }
        }
        // A stopping server ends its streams without an error.
        throw new ConnectError("the server closed the stream", Code.Unavailable);
      } catch (thrown) {
        const error = ServiceError.from(thrown);
        const unauthenticated = error.code === Code.Unauthenticated;
        const expired = this.#renewsToken && admitted && unauthenticated;
        if (!error.worthRepeating && !expired) throw error;
        await attempts.failed(error);
      }
    }
  }

  /**
   * Send rows, each stored exactly once, and return the ended ingestion with its first errors.
   *
   * A lost connection is resumed after the committed rows. To go on after a crash of this program,
   * choose `ingestionId` and send the same rows again. `progress` gets the number of rows sent.
   */
  async ingest(
    rows: Rows,
    options: {
      ingestionId?: string;
      updateExisting?: boolean;
      validateOnly?: boolean;
      progress?: (sent: number) => void;
    } = {},
  ): Promise<IngestRowsResponse> {
    const ingestionId = options.ingestionId ?? randomUUID();
    const attempts = new Attempts(this.#patience);
    let reached = 0;
    for (;;) {
      const offset = await this.#committedOffset(ingestionId);
      if (offset > reached) attempts.progressed();
      reached = offset;
      try {
        return await this.ingestions.ingestRows(messages(ingestionId, rows, offset, options));
      } catch (thrown) {
        const error = ServiceError.from(thrown);
        // A stream that was resumed too early does not begin at the committed offset.
        if (!error.worthRepeating && error.reason !== "OFFSET_MISMATCH") throw error;
        await attempts.failed(error);
      }
    }
  }

  async #committedOffset(ingestionId: string): Promise<number> {
    try {
      const { ingestion } = await this.ingestions.getIngestion({ ingestionId });
      return Number(ingestion?.committedOffset ?? 0n);
    } catch (error) {
      if (error instanceof ServiceError && error.reason === "INGESTION_NOT_FOUND") return 0;
      throw error;
    }
  }

  #retrying<Service extends DescService>(service: Service, client: Client<Service>): Client<Service> {
    const methods: Record<string, unknown> = { ...client };
    for (const { localName, methodKind, input } of service.methods) {
      if (methodKind !== "unary") continue;
      const call = methods[localName] as (request: object, options?: CallOptions) => Promise<unknown>;
      const isWrite = input.fields.some((field) => field.localName === "requestId");
      methods[localName] = async (request: object, options: CallOptions = {}) => {
        const asked = { ...request } as { requestId?: string };
        if (isWrite) asked.requestId ||= randomUUID();
        const { giveUpMs } = this.#patience;
        const attempts = new Attempts(this.#patience, options.timeoutMs ?? giveUpMs);
        for (;;) {
          try {
            return await call(asked, { ...options, timeoutMs: attempts.timeoutMs() });
          } catch (thrown) {
            const error = ServiceError.from(thrown);
            if (!error.worthRepeating || options.signal?.aborted) throw error;
            await attempts.failed(error);
          }
        }
      };
    }
    return methods as Client<Service>;
  }
}

/** Counts failures, pauses after each, and gives up in time. */
class Attempts {
  #failures = 0;
  #endsAt: number | undefined;

  /** `totalMs` is the time of all attempts; without it, the time since the first failure counts. */
  constructor(
    private readonly patience: Patience,
    totalMs?: number,
  ) {
    if (totalMs !== undefined) this.#endsAt = Date.now() + totalMs;
  }

  /** Return the time of the next attempt. */
  timeoutMs(): number {
    const left = (this.#endsAt ?? Infinity) - Date.now();
    return Math.max(1, Math.min(this.patience.callTimeoutMs, left));
  }

  /** Start counting anew. */
  progressed(): void {
    this.#failures = 0;
    this.#endsAt = undefined;
  }

  /** Pause before the next attempt. Throws `error` if no time is left for one. */
  async failed(error: ServiceError): Promise<void> {
    this.#endsAt ??= Date.now() + this.patience.giveUpMs;
    const { firstPauseMs, longestPauseMs } = this.patience;
    const growing = Math.min(firstPauseMs * 2 ** this.#failures, longestPauseMs);
    const least = Math.min(error.retryAfterMs, longestPauseMs);
    const pauseMs = Math.max(least, growing * (0.5 + Math.random() / 2));
    if (Date.now() + pauseMs >= this.#endsAt) throw error;
    this.#failures += 1;
    await pause(pauseMs);
  }
}

function bearer(token: () => string | Promise<string>): Interceptor {
  return (next) => async (request) => {
    request.header.set("authorization", `Bearer ${await token()}`);
    return next(request);
  };
}

async function* messages(
  ingestionId: string,
  rows: Rows,
  offset: number,
  options: { updateExisting?: boolean; validateOnly?: boolean; progress?: (sent: number) => void },
): AsyncGenerator<MessageInitShape<typeof IngestRowsRequestSchema>> {
  const header = {
    ingestionId,
    kind: "customers" in rows ? IngestionKind.CUSTOMERS : IngestionKind.LOANS,
    onExisting: options.updateExisting ? OnExisting.UPDATE : OnExisting.SKIP,
    validateOnly: options.validateOnly ?? false,
  };
  yield { payload: { case: "header", value: header } };
  const total = "customers" in rows ? rows.customers.length : rows.loans.length;
  for (let first = offset; first < total; first += BATCH_ROWS) {
    const end = Math.min(first + BATCH_ROWS, total);
    const some =
      "customers" in rows
        ? { case: "customers" as const, value: { rows: rows.customers.slice(first, end) } }
        : { case: "loans" as const, value: { rows: rows.loans.slice(first, end) } };
    yield { payload: { case: "batch", value: { offset: BigInt(first), rows: some } } };
    options.progress?.(end);
  }
}
