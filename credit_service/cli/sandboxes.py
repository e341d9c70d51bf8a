"""`up --sandbox`: a service of its own that lives through a made-up year, for trying out."""

import threading
from datetime import timedelta

from credit_service.cli.common import UsageError
from credit_service.cli.output import note
from credit_service.clock import Clock
from credit_service.sandbox.agenda import SteppedClock
from credit_service.sandbox.year import Size, Year
from credit_service.settings import Settings
from credit_service_client.client import CreditClient
from credit_service_client.errors import ServiceError
from credit_service_client.sources import SourceError

_YEAR, _CLOCK = "year", "clock"
_BEGUN, _OVER = "begun", "over"
# Unless they are set. Thousands of calls and days would hide how the year goes.
_DEFAULTS = {"log_level": "warning", "access_log": False, "console_environment": "sandbox"}


class Sandbox:
    """The folder of a sandbox, and the year that fills it once."""

    def __init__(self, settings: Settings, size: Size | None = None) -> None:
        """Raises UsageError if the settings are those of a real service, or if the folder has a
        sandbox whose year was interrupted."""
        if settings.database_url is not None or settings.redis_url is not None:
            raise UsageError("--sandbox has databases of its own: unset DATABASE_URL and REDIS_URL")
        if settings.tls_certificate is not None or settings.token_keys is not None:
            raise UsageError("--sandbox serves without TLS and tokens: unset their settings")
        self._size = size or Size()
        self._folder = settings.data_dir / "sandbox"
        self._year = self._folder / _YEAR
        state = self._year.read_text() if self._year.exists() else ""
        self._is_over = state == _OVER
        if state == _BEGUN:
            raise UsageError(
                f"the sandbox in {self._folder} was interrupted while its year went by: remove "
                "the folder to start again"
            )
        self._clock_file = self._folder / _CLOCK
        self.settings = settings.model_copy(
            update={
                **{
                    name: value
                    for name, value in _DEFAULTS.items()
                    if name not in settings.model_fields_set
                },
                "data_dir": self._folder,
                "clock_offset_file": self._clock_file,
            }
        )
        if not self._is_over:
            # The service starts in the past.
            self._folder.mkdir(parents=True, exist_ok=True)
            first = Clock().moment().today - timedelta(days=self._size.days)
            SteppedClock(self._clock_file).set(first, 0)

    def fill(self, address: str) -> None:
        """Start to fill the service, unless it was filled before. The thread prints how it goes."""
        if self._is_over:
            note(f"This sandbox was filled before; remove {self._folder} for a new one.")
            return
        self._year.write_text(_BEGUN)
        note("The sandbox lives through a year, which takes some minutes. Watch it in the console.")
        threading.Thread(target=self._live, args=(address,), name="sandbox", daemon=True).start()

    def _live(self, address: str) -> None:
        today = Clock().moment().today
        try:
            with CreditClient(address) as client:
                client.require_ready()
                Year(client, SteppedClock(self._clock_file), today, note, self._size).live()
        except (ServiceError, SourceError, OSError) as error:
            note(f"The year ended early: {error}")
            return
        self._year.write_text(_OVER)
        note("The year is over; the sandbox is ready.")
