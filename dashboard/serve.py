"""The dashboard's server: how it is started, and that only this machine can reach it.

`hybridlab dashboard` runs ``python -m hybridlab.dashboard.serve``: rooms below this one cannot import it.
"""

import argparse
import os
import socket
import sys
from pathlib import Path

from ..architectures import InvalidInput

ADDRESS = "localhost"
OPTIONS = {
    "server.address": ADDRESS,
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "minimal",
    "theme.light.primaryColor": "#C2185B",
    "theme.dark.primaryColor": "#F0629A",
    "theme.paddingTop": "2.5rem",
}


def dashboard_arguments(port: int) -> list[str]:
    """Arguments of the Python interpreter that serve the dashboard on ``localhost:port``, without telemetry.

    Raises InvalidInput where the port is none or is taken.
    """
    check_port(port)
    options = [f"--{name}={value}" for name, value in {**OPTIONS, "server.port": port}.items()]
    return ["-m", "streamlit", "run", str(Path(__file__).with_name("app.py")), *options]


def check_port(port: int) -> None:
    """Raises InvalidInput unless a server can listen on this port now."""
    if not 1 <= port <= 65535:
        raise InvalidInput(f"port {port}: a port is a number from 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError as why:
            raise InvalidInput(f"port {port}: {why.strerror}; choose another with --port") from why


def main() -> None:
    """Serve until interrupted; an impossible port is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="hybridlab dashboard", description="Serve the dashboard on this machine.")
    parser.add_argument("--port", type=int, default=8501, help="the port to listen on (default 8501)")
    try:
        arguments = dashboard_arguments(parser.parse_args().port)
    except InvalidInput as wrong:
        print(wrong, file=sys.stderr)
        sys.exit(2)
    os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == "__main__":
    main()
