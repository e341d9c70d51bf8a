"""The one place where the service reads the time.

Every use case is given a `Moment`; nothing below the edge asks the machine for the time. For trying
out a year's turn or a month's end, a clock file names how far the service's time is from the
machine's: one integer, seconds, read again at every call so that running processes follow it.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

_INDIA = ZoneInfo("Asia/Kolkata")


@dataclass(frozen=True, slots=True)
class Moment:
    """An instant and the civil day it falls on in the business time zone."""

    now: datetime
    today: date
    zone: ZoneInfo = _INDIA

    def seconds_until(self, day: date) -> float:
        """Seconds until that day begins; negative when it has begun."""
        return (datetime.combine(day, time(), self.zone) - self.now).total_seconds()


class ClockFileError(ValueError):
    """The clock file cannot be read, or holds no number of seconds; the message names it."""


class Clock:
    """Tells the moment. Safe to share between threads."""

    def __init__(self, time_zone: str = "Asia/Kolkata", offset_file: Path | None = None) -> None:
        """`offset_file` holds seconds to add to the machine's time; absent or empty means none."""
        self._zone = ZoneInfo(time_zone)
        self._offset_file = offset_file

    def moment(self) -> Moment:
        """The present. Raises ClockFileError for a clock file that cannot be used."""
        now = datetime.now(UTC)
        if self._offset_file is not None:
            try:
                now += self._offset(self._offset_file)
            except (OSError, ValueError, OverflowError) as error:
                why = error.strerror if isinstance(error, OSError) else "it holds no such number"
                raise ClockFileError(
                    f"CREDIT_CLOCK_OFFSET_FILE={self._offset_file} is not accepted: {why};"
                    " write one whole number of seconds into it"
                ) from error
        return Moment(now, now.astimezone(self._zone).date(), self._zone)

    @staticmethod
    def _offset(path: Path) -> timedelta:
        try:
            text = path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return timedelta(0)
        return timedelta(seconds=int(text or "0"))
