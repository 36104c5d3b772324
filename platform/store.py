"""Which MLflow holds the records, and a client for it that gives up in seconds instead of minutes.

``MLFLOW_TRACKING_URI`` names a server; without it the store is SQLite, ``mlflow.db`` in the runs folder, its files in
``artifacts`` beside it.
"""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from ..architectures import InvalidInput
from .folders import runs_folder

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's own 7 retries take four minutes to say that a server is down
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Set before MLflow is imported, each unless the user has set it."""


class StoreDown(InvalidInput):
    """MLflow does not answer, or answers with an error that is not about one record."""


def tracking_uri() -> str:
    """``$MLFLOW_TRACKING_URI``, else SQLite in the runs folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs_folder() / 'mlflow.db'}"


def artifact_location(sweep: str) -> str | None:
    """Where the files of a new experiment go: beside the default store; elsewhere the server decides (none)."""
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    return (runs_folder() / "artifacts" / sweep).as_uri()


def connect() -> "MlflowClient":
    """A client of the store, which has just answered; the default store is made if it is not there.

    Raises:
        StoreDown: one line with the address and what MLflow said.
    """
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    from mlflow.tracking import MlflowClient

    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)
    uri = tracking_uri()
    try:
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    except Exception as error:  # requests, SQLAlchemy, MLflow and urllib3 each have their own
        raise StoreDown(f"MLflow at {shown(uri)} does not answer: {one_line(error)}") from None
    return client


def default_store_is_empty() -> bool:
    """Whether the default store is in use and nothing was ever written to it: reading must not create it."""
    return not os.environ.get("MLFLOW_TRACKING_URI") and not (runs_folder() / "mlflow.db").exists()


def shown(uri: str) -> str:
    """An address without its password."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def one_line(error: BaseException) -> str:
    """What an exception says, on one line of bearable length; where HTTP retries ran out, what the last of them met."""
    while "Max retries exceeded" in str(error) and (inner := error.__cause__ or error.__context__):
        error = inner
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"
