/** Failed calls, with the standard details that the service attaches. */

import { Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";

/** A call that failed. */
export class ServiceError extends Error {
  /** The status. */
  readonly code: Code;
  /** A value of the contract's ErrorReason without prefix; "" if the service did not answer. */
  readonly reason: string;
  /** What the reason is about: ids, limits. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Every invalid field with what is wrong with it. */
  readonly fields: Readonly<Record<string, string>>;
  /** How long to wait before a retry, in milliseconds; 0 if the service does not say. */
  readonly retryAfterMs: number;

  constructor(error: ConnectError) {
    const info = error.findDetails(ErrorInfoSchema)[0];
    super(`${Code[error.code]}${info ? ` (${info.reason})` : ""}: ${error.rawMessage}`, {
      cause: error,
    });
    this.name = "ServiceError";
    this.code = error.code;
    this.reason = info?.reason ?? "";
    this.metadata = info?.metadata ?? {};
    this.fields = Object.fromEntries(
      error
        .findDetails(BadRequestSchema)
        .flatMap((each) => each.fieldViolations)
        .map((each) => [each.field, each.description]),
    );
    const delay = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
    this.retryAfterMs = delay ? Number(delay.seconds) * 1000 + delay.nanos / 1e6 : 0;
  }

  /** Return the error as ServiceError. */
  static from(error: unknown): ServiceError {
    return error instanceof ServiceError ? error : new ServiceError(ConnectError.from(error));
  }

  /**
   * Whether a repeat can succeed: a lost connection, a stopping or a busy server. The call may have
   * taken effect; a repeat with the same request id returns the stored response.
   */
  get worthRepeating(): boolean {
    return WORTH_REPEATING.has(this.code);
  }
}

const WORTH_REPEATING = new Set([
  Code.Unavailable,
  Code.Aborted,
  Code.ResourceExhausted,
  Code.DeadlineExceeded,
  Code.Canceled,
]);
