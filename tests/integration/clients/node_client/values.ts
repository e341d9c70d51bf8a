// Amounts and days, there and back.
import { asDay, inRupees, on, rupees } from "credit-service-client";
for (const amount of ["0", "0.01", "-0.01", "8884.88", "-12.5", "100000000"]) {
  console.log(inRupees(rupees(amount)));
}
console.log(asDay(on("2024-02-29")));
for (const wrong of ["0.001", "ten", 0.1, Number.NaN]) {
  try {
    console.log(rupees(wrong));
  } catch (error) {
    console.log((error as Error).name);
  }
}
