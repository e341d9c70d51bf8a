"""What an import makes of a row, by the rules, in plain Python."""

from tests.model.loans import Facts

OUTCOMES = ("inserted", "updated", "unchanged", "skipped", "rejected")
CUSTOMER_FACTS = ("phone", "age", "income", "limit", "limit_set")
LOAN_FACTS = ("principal", "bps", "tenure", "installment", "start", "source_on_time")
LOAN_RECORD = (*LOAN_FACTS, "end", "settled", "closed")


def is_same(one: Facts, other: Facts) -> bool:
    return all(one[name] == other[name] for name in LOAN_FACTS)


def outcome_of_customer(
    row: Facts,
    customers: dict[int, Facts],
    holders: dict[str, int],
    first: dict[int, Facts],
    *,
    update: bool,
) -> str:
    number = row["customer_id"]
    if row["age"] < 18:
        return "rejected"
    if number in first:
        return "unchanged" if first[number] == row else "rejected"
    stored = customers.get(number)
    outcome = "inserted"
    if stored is not None:
        same = all(stored[name] == row[name] for name in ("phone", "age", "income"))
        if same and row["limit"] in (None, stored["limit"]):
            outcome = "unchanged"
        else:
            outcome = "updated" if update else "skipped"
    if outcome in ("inserted", "updated"):
        if stored is not None and not stored["imported"]:
            return "rejected"
        if holders.get(row["phone"], number) != number:
            return "rejected"
    first[number] = row
    return outcome
