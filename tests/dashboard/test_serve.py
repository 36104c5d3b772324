import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hybridlab.architectures import InvalidInput
from hybridlab.dashboard.serve import dashboard_arguments


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def test_the_server_is_for_this_machine_only_and_tells_nobody(free_port):
    arguments = dashboard_arguments(free_port)
    assert arguments[:3] == ["-m", "streamlit", "run"]
    assert Path(arguments[3]).is_file()
    assert {
        "--server.address=localhost",
        "--server.headless=true",
        "--server.fileWatcherType=none",
        "--browser.gatherUsageStats=false",
        f"--server.port={free_port}",
    } <= set(arguments)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_number_that_is_no_port_is_refused(port):
    with pytest.raises(InvalidInput, match=f"port {port}: .*65535"):
        dashboard_arguments(port)


def test_a_port_in_use_is_one_line_and_exit_code_2():
    with socket.socket() as other:
        other.bind(("localhost", 0))
        other.listen()
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "hybridlab.dashboard.serve", "--port", str(port)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2
    assert run.stderr.splitlines() == [f"port {port}: Address already in use; choose another with --port"]
