/** Values of the contract from JavaScript's, and back: rupees, percent, days. */

import { create } from "@bufbuild/protobuf";
import { type Date as CivilDate, DateSchema } from "./gen/google/type/date_pb.js";
import { type Decimal, DecimalSchema } from "./gen/google/type/decimal_pb.js";
import { type Money, MoneySchema } from "./gen/google/type/money_pb.js";

const AMOUNT = /^(-?)(\d+)(?:\.(\d{1,2}))?$/;
const NANOS_PER_PAISA = 10_000_000;

/**
 * Return an amount in rupees as Money in INR. A number must be a whole number of rupees, because
 * 0.1 is not exact; write other amounts as text: rupees("8884.88"). Throws RangeError.
 */
export function rupees(amount: bigint | number | string): Money {
  if (typeof amount === "number" && !Number.isSafeInteger(amount)) {
    throw new RangeError(`write ${amount} rupees as text`);
  }
  const found = AMOUNT.exec(String(amount));
  if (!found) throw new RangeError(`${amount} rupees is not a whole number of paise`);
  const [, minus, whole = "0", paise = ""] = found;
  const sign = minus ? -1 : 1;
  return create(MoneySchema, {
    currencyCode: "INR",
    units: BigInt(whole) * BigInt(sign),
    nanos: Number(paise.padEnd(2, "0")) * NANOS_PER_PAISA * sign || 0,
  });
}

/** Return the rupees of a Money as text with two decimals: "8884.88". */
export function inRupees(money: Money): string {
  const paise = money.units * 100n + BigInt(money.nanos / NANOS_PER_PAISA);
  const digits = (paise < 0n ? -paise : paise).toString().padStart(3, "0");
  return `${paise < 0n ? "-" : ""}${digits.slice(0, -2)}.${digits.slice(-2)}`;
}

/** Return a rate in percent as google.type.Decimal: percent("12.5"). */
export function percent(rate: string): Decimal {
  return create(DecimalSchema, { value: rate });
}

/** Return a day, "2026-11-30", as google.type.Date. Throws RangeError. */
export function on(day: string): CivilDate {
  const found = /^(\d{4})-(\d{2})-(\d{2})$/.exec(day);
  if (!found) throw new RangeError(`${day} is not a day like 2026-11-30`);
  const [year, month, date] = found.slice(1).map(Number);
  return create(DateSchema, { year, month, day: date });
}

/** Return a google.type.Date as text: "2026-11-30". */
export function asDay(date: CivilDate): string {
  const two = (part: number) => String(part).padStart(2, "0");
  return `${String(date.year).padStart(4, "0")}-${two(date.month)}-${two(date.day)}`;
}
