"""Integer money: rounding and formatting."""

from credit_service.rupees import RUPEE_PAISE

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
