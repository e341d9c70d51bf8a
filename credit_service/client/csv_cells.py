"""Cells of CSV files that a spreadsheet program may open."""

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def neutralised(cell: str) -> str:
    """Return the cell, after an apostrophe if a spreadsheet program would treat it as a formula."""
    # Some spreadsheet programs ignore whitespace and a byte order mark before the sign.
    starts = cell.lstrip(" \u00a0\ufeff\n\u3000")
    # Full-width signs also start formulas in some locales.
    if starts.startswith((*_FORMULA_STARTS, "\uff1d", "\uff0b", "\uff0d", "\uff20")):
        return "'" + cell
    return cell
