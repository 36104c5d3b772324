"""The real server over a real store, in headless Chromium."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hybridlab.dashboard.serve import dashboard_arguments
from hybridlab.platform.folders import write_record
from hybridlab.platform.tracking import Tracker

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e .[dev]")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
NASTY = "<b>bold</b> $x$ *it*"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: apt-get install chromium"),
]


@pytest.fixture
def store(tmp_path, monkeypatch, frame) -> Path:
    """A runs folder whose MLflow holds one sweep: the frame's trials on recall with seed 0, one of them oddly named."""
    monkeypatch.setenv("HYBRIDLAB_RUNS", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    rows = [row for row in frame.to_dict("records") if (row["task"], row["seed"]) == ("recall", 0)]
    tracker = Tracker("quickstart")
    for row in rows:
        record = {key: value for key, value in row.items() if "/" not in key}
        metrics = {key: value for key, value in row.items() if "/" in key and value == value}
        record |= {"name": NASTY if row["name"] == "hybrid-1-1" else row["name"], "metrics": metrics}
        folder = tmp_path / "quickstart" / row["id"]
        write_record(
            folder, record | {"config": {}, "environment": {}, "started": "2026-01-01T00:00:00", "seconds": 1.0}
        )
        tracker.deliver(folder)
    return tmp_path


@pytest.fixture
def server(store) -> Iterator[str]:
    """The address of a dashboard over the store."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    with (store / "server.log").open("w") as log:
        process = subprocess.Popen([sys.executable, *dashboard_arguments(port)], stdout=log, stderr=log, env=os.environ)
        try:
            _wait(f"http://localhost:{port}/_stcore/health", process)
            yield f"http://localhost:{port}"
        finally:
            process.terminate()
            process.wait(20)


def _wait(url: str, process: subprocess.Popen, seconds: float = 120) -> None:
    """Until the server answers, or has died."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"{url} does not answer")


@pytest.fixture
def tab(server) -> Iterator[Any]:
    """A browser's page of 1280 pixels, at the dashboard."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1600})
        page.goto(server)
        yield page
        browser.close()


def test_the_frontier_the_layers_and_the_table_are_seen(tab, tmp_path):
    chart, layers = tab.locator(".js-plotly-plot").nth(0), tab.locator(".js-plotly-plot").nth(1)
    sync_api.expect(layers).to_be_visible(timeout=120_000)
    sync_api.expect(tab.get_by_test_id("stDataFrame").first).to_be_visible()
    sync_api.expect(tab.get_by_text("6 of 9 trials shown.")).to_be_visible()
    assert chart.locator(".scatterlayer .point").count() == 6
    assert chart.locator(".scatterlayer .js-line").count() == 1
    assert layers.locator(".barlayer .point").count() > 50
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.screenshot(path=tmp_path / "frontier.png")
    drawn = [text.strip() for plot in (chart, layers) for text in plot.locator("text").all_text_contents()]
    assert drawn.count(NASTY) == 2
    assert tab.locator("b", has_text="bold").count() == 0
    link = tab.url
    assert "sweep=quickstart" in link
    tab.goto(link.replace("state_bytes%2F16384", "state_bytes%2F1024"))
    sync_api.expect(tab.get_by_text("Decoding state at 1,024 tokens (bytes, log scale")).to_be_visible(timeout=120_000)
