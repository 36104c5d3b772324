"""`make memcheck` finds its tool where CUDA has it, and says what it needs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_spec = importlib.util.spec_from_file_location("memcheck", Path(__file__).with_name("memcheck.py"))
assert _spec is not None
assert _spec.loader is not None
memcheck = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(memcheck)


def test_the_tool_is_found_in_the_folders_of_cuda(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(memcheck, "glob", lambda pattern: [])
    assert memcheck.tool() is None
    (tmp_path / "compute-sanitizer").mkdir()
    program = tmp_path / "compute-sanitizer" / "compute-sanitizer"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert memcheck.tool() == str(program)


def test_what_is_missing_is_said(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert memcheck.main() == 1
    assert "needs a CUDA device" in capsys.readouterr().out
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(memcheck, "tool", lambda: None)
    assert memcheck.main() == 1
    assert "compute-sanitizer is not on the path" in capsys.readouterr().out
