"""Every test has a cache of its own, and the hub is switched off before a library that asks it is imported."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where corpora are packed in this test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HYBRIDLAB_CACHE", str(folder))
    return folder
