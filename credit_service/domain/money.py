"""Integer money: rounding and formatting."""

RUPEE_PAISE = 100
LAKH_PAISE = 100_000 * RUPEE_PAISE
CRORE_PAISE = 100 * LAKH_PAISE


def divide_half_up(numerator: int, denominator: int) -> int:
    """numerator / denominator rounded to the nearest integer, ties away from zero.

    Raises ZeroDivisionError when the denominator is 0.
    """
    if denominator < 0:
        numerator, denominator = -numerator, -denominator
    if numerator >= 0:
        return (2 * numerator + denominator) // (2 * denominator)
    return -((denominator - 2 * numerator) // (2 * denominator))


def format_inr(paise: int) -> str:
    """Paise as rupees in Indian grouping: 10_000_000 gives '₹1,00,000.00'."""
    sign = "-" if paise < 0 else ""
    rupees, rest = divmod(abs(paise), RUPEE_PAISE)
    return f"{sign}₹{group_digits(rupees)}.{rest:02d}"


def format_rupees(paise: int) -> str:
    """Paise as a plain number of rupees, also for machines: 888488 gives '8884.88'."""
    sign = "-" if paise < 0 else ""
    rupees, rest = divmod(abs(paise), RUPEE_PAISE)
    return f"{sign}{rupees}.{rest:02d}"


def group_digits(number: int) -> str:
    """A number of 0 or more in Indian grouping: 1_00_000 gives '1,00,000'."""
    head, tail = divmod(number, 1000)
    if not head:
        return str(tail)
    groups = [f"{tail:03d}"]
    while head >= 100:
        head, pair = divmod(head, 100)
        groups.append(f"{pair:02d}")
    groups.append(str(head))
    return ",".join(reversed(groups))


def format_hundredths(hundredths: int) -> str:
    """Hundredths as a decimal without trailing zeros: 1250 gives '12.5', 1200 gives '12'."""
    sign = "-" if hundredths < 0 else ""
    whole, rest = divmod(abs(hundredths), 100)
    if not rest:
        return f"{sign}{whole}"
    return f"{sign}{whole}.{rest:02d}".rstrip("0")


def format_rate(bps: int) -> str:
    """Basis points as percent: 1250 gives '12.5 %'."""
    return f"{format_hundredths(bps)} %"
