"""Client of the credit service: `CreditClient`, and the values and errors of its calls."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from credit_service_client.channel import TokenFile, open_channel
    from credit_service_client.client import CreditClient
    from credit_service_client.errors import ServiceError
    from credit_service_client.ingestion import Listener
    from credit_service_client.retrying import Patience
    from credit_service_client.sources import Rows, RowSource, SourceError
    from credit_service_client.tls import ClientTls, TlsFileError
    from credit_service_client.values import as_date, in_percent, in_rupees, on, percent, rupees

__all__ = [
    "ClientTls",
    "CreditClient",
    "Listener",
    "Patience",
    "RowSource",
    "Rows",
    "ServiceError",
    "SourceError",
    "TlsFileError",
    "TokenFile",
    "as_date",
    "in_percent",
    "in_rupees",
    "on",
    "open_channel",
    "percent",
    "rupees",
]

_MODULES = {
    "channel": ("TokenFile", "open_channel"),
    "client": ("CreditClient",),
    "errors": ("ServiceError",),
    "ingestion": ("Listener",),
    "retrying": ("Patience",),
    "sources": ("RowSource", "Rows", "SourceError"),
    "tls": ("ClientTls", "TlsFileError"),
    "values": ("as_date", "in_percent", "in_rupees", "on", "percent", "rupees"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name when it is used: a program that needs one module imports only that one."""
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = found
    return found
