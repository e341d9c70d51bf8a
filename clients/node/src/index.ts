/** Client of the credit service: CreditClient, and the values and errors of its calls. */

export { CreditClient, type Options, type Patience, type Rows } from "./client.js";
export { ServiceError } from "./errors.js";
export { asDay, inRupees, on, percent, rupees } from "./values.js";
