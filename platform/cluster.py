"""A Ray to run on: the one at an address, or one started here for as long as it is needed.

The local one listens on the loopback interface alone, has no dashboard, and bounds its object store, since trials
exchange only small dictionaries. Ray's token authentication stays on: Ray takes ``RAY_AUTH_TOKEN``,
``RAY_AUTH_TOKEN_PATH`` or ``~/.ray/auth_token``; where there is none of these, a local Ray gets a token of its own that
lives in this process's environment and ends with it. A running cluster needs the token it was started with (``ray
get-auth-token`` there).
"""

import contextlib
import gc
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..architectures import InvalidInput

ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables; progress.py shows the sweep
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in a sweep mean the same inside a trial
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON and TensorBoard copies of what MLflow holds
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C reaches the driver at once
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a trial without a GPU of its own leaves CUDA_VISIBLE_DEVICES alone
}
"""Set before Ray is imported, each unless the user has set it."""
OBJECT_STORE = 128 * 2**20
"""Bytes of shared memory for the local object store."""


LOCAL_ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Besides, for a local Ray: the name is history, what it does is bind every port to 127.0.0.1."""
PATIENCE = 5.0
"""Seconds for a cluster's port to answer: Ray's own client takes two minutes to give up, and then ends the process."""


@contextlib.contextmanager
def cluster(address: str | None = None, *, cpus: int | None = None) -> Iterator[None]:
    """Connect to the Ray at ``address`` (``host:port`` or ``auto``), or start one with ``cpus`` cores (none: all) and
    stop it after.

    Raises:
        InvalidInput: no Ray answers at the address, or it refuses the token.
    """
    if address is not None:
        _check_address(address)
    for key, value in (ENVIRONMENT | (LOCAL_ENVIRONMENT if address is None else {})).items():
        os.environ.setdefault(key, value)
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(
        logging.CRITICAL
    )  # failed trials are told of by the sweep, with their reason
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        _ensure_token()
        ray.init("local", num_cpus=cpus, include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet)
    else:
        _connect(address, quiet)
    try:
        yield
    finally:
        _shut_down()


def _shut_down() -> None:
    """End Ray with no garbage that refers to it: some thread collecting such while Ray ends would end the process."""
    import ray

    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()


def _check_address(address: str) -> None:
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdigit():
        raise InvalidInput(f"address {address!r} is not host:port or auto")
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except OSError as error:
        raise InvalidInput(f"no Ray answers at {address!r}: {error}; `ray start --head` starts one") from None


def _connect(address: str, quiet: dict[str, Any]) -> None:
    import ray
    from ray.exceptions import AuthenticationError

    try:
        ray.init(address, **quiet)
    except AuthenticationError:
        raise InvalidInput(f"Ray at {address!r} wants its token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH") from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:160]
        hint = "is it Ray's port, and RAY_AUTH_TOKEN its token?"
        raise InvalidInput(f"what answers at {address!r} does not let us in: {said}; {hint}") from None


def _ensure_token() -> None:
    """A token for the cluster started next, where the user has neither a token nor another wish."""
    wishes = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if not any(os.environ.get(key) for key in wishes) and not (Path.home() / ".ray" / "auth_token").exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
