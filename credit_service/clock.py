"""The only place where the service reads the time.

Every use case receives a `Moment`; nothing below the edge reads the machine's clock. To test the
end of a year or month, a clock file contains the offset from the machine's time: one integer, in
seconds, which every call reads again so that running processes follow it.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

INDIA = ZoneInfo("Asia/Kolkata")
"""The business time zone by default."""


@dataclass(frozen=True, slots=True)
class Moment:
    """An instant, and its civil day in the business time zone."""

    now: datetime
    today: date
    zone: ZoneInfo = INDIA

    def seconds_until(self, day: date) -> float:
        """Return the seconds until that day starts; negative if it has started."""
        return (datetime.combine(day, time(), self.zone) - self.now).total_seconds()


class ClockFileError(ValueError):
    """The clock file is unreadable or has no number of seconds; the message names it."""


class Clock:
    """Returns the current moment. Safe to share between threads."""

    def __init__(self, time_zone: str = "Asia/Kolkata", offset_file: Path | None = None) -> None:
        """`offset_file` contains seconds to add to the machine's time; absent or empty means 0."""
        self._zone = ZoneInfo(time_zone)
        self._offset_file = offset_file

    def moment(self) -> Moment:
        """Return the current moment. Raises ClockFileError for an unusable clock file."""
        now = datetime.now(UTC)
        if self._offset_file is not None:
            try:
                now += self._offset(self._offset_file)
            except (OSError, ValueError, OverflowError) as error:
                why = error.strerror if isinstance(error, OSError) else "not a valid number"
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
