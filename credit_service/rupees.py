"""Integer paise as text in rupees: Indian grouping for people, plain figures for machines.

In the lowest layer, because the domain writes amounts into its messages, and console and command
line write the same amounts without importing the domain.
"""

RUPEE_PAISE = 100


def group_digits(number: int) -> str:
    """Return a whole number in Indian grouping: 1_00_000 gives '1,00,000'."""
    sign = "-" if number < 0 else ""
    head, tail = divmod(abs(number), 1000)
    if not head:
        return f"{sign}{tail}"
    groups = [f"{tail:03d}"]
    while head >= 100:
        head, pair = divmod(head, 100)
        groups.append(f"{pair:02d}")
    groups.append(str(head))
    return sign + ",".join(reversed(groups))


def format_inr(paise: int) -> str:
    """Return paise as rupees in Indian grouping: 10_000_000 gives '₹1,00,000.00'."""
    sign = "-" if paise < 0 else ""
    rupees, rest = divmod(abs(paise), RUPEE_PAISE)
    return f"{sign}₹{group_digits(rupees)}.{rest:02d}"


def format_rupees(paise: int) -> str:
    """Return paise as a plain figure in rupees: 888488 gives '8884.88'."""
    sign = "-" if paise < 0 else ""
    rupees, rest = divmod(abs(paise), RUPEE_PAISE)
    return f"{sign}{rupees}.{rest:02d}"
