"""Client of the credit service: `CreditClient`, and the values and errors of its calls."""

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
