"""Several rows as parameters of one statement: each column is a text with one line per row.

psycopg escapes every text of an array separately, which takes longer than the statement of a group
saves.
"""

from collections.abc import Mapping, Sequence
from typing import Any


class Columns:
    """The columns of the rows, and the SQL that reads them."""

    __slots__ = ("_names", "source")

    def __init__(self, types: Mapping[str, str]) -> None:
        """`types` maps names of columns to their SQL types."""
        self._names = tuple(types)
        arrays = ", ".join(
            f"CAST(string_to_array(:{name}_lines, chr(10), '') AS {kind}[])"
            for name, kind in types.items()
        )
        self.source = f"unnest({arrays}) AS g ({', '.join(types)})"
        """For FROM: the rows, as g, with the parameters of `values`."""

    def values(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Return the parameters for at least one row. None and an empty text become NULL.

        Raises:
            ValueError: a value contains a line separator.
        """
        separators = len(rows) - 1
        values = {}
        for name in self._names:
            lines = "\n".join([_line(row[name]) for row in rows])
            if lines.count("\n") != separators:
                raise ValueError(f"a value of {name} contains a line separator")
            values[f"{name}_lines"] = lines
        return values


def _line(value: Any) -> str:
    if value is None:
        return ""
    return f"\\x{value.hex()}" if isinstance(value, bytes) else str(value)
