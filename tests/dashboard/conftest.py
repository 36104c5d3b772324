"""A small store's frame: what `load_frame` hands to the pages, one row per trial."""

import numpy as np
import pandas as pd
import pytest

MODELS = {  # name: pattern, test accuracy on recall, state bytes at 1,024 tokens
    "attention": ("(attn mlp)*4", 0.34, 524_288),
    "mamba2": ("(mamba2 mlp)*4", 0.31, 33_000),
    "mamba": ("(mamba mlp)*4", 0.36, 21_000),
    "linear": ("(linear mlp)*4", 0.22, 8_400),
    "rwkv6": ("(rwkv6 mlp)*4", 0.30, 17_000),
    "hybrid-3-1": ("(mamba2 mlp)*3 attn mlp", 0.93, 156_000),
    "hybrid-1-1": ("(mamba2 mlp attn mlp)*2", 0.996, 279_000),
    "hybrid-experts": ("(mamba2 mlp)*3 attn@a moe", 0.95, 168_000),
    "parallel": ("(attn|mamba2 mlp)*4", 0.97, 540_000),
}


def row(name: str, task: str = "recall", seed: int = 0, status: str = "finished", **values) -> dict:
    """One row of a frame; metrics are given as columns, a trial that did not finish has none."""
    pattern, accuracy, state = MODELS.get(name, ("(mamba2 mlp)*2", 0.5, 10_000))
    noise = np.random.default_rng([seed, len(name)]).normal()
    metrics = {
        "test/accuracy": min(1.0, accuracy + 0.01 * noise),
        "test/loss": 4 * (1 - accuracy) + 0.02 * noise,
        "lm_eval/recall_in_words/acc": accuracy * 0.8,
        "efficiency/decode_tokens_per_second/1024": 4e7 / (state + 1e5) + 3 * noise,
        "efficiency/state_bytes/1024": float(state),
        "efficiency/state_bytes/16384": float(state * (16 if "attn" in pattern else 1)),
        "bill/flops_per_token": 2.1e6 + state,
    }
    row = {
        "id": f"{name}-{task}-{seed}", "name": name, "pattern": pattern, "task": task, "seed": seed, "status": status,
        "reason": None, "parameters": 1_048_576 + 97 * len(name), "active_parameters": 1_048_576,
    }  # fmt: skip
    return {**row, **(metrics if status == "finished" else {}), **values}


@pytest.fixture
def trial():
    """The maker of single trials."""
    return row


@pytest.fixture
def frame() -> pd.DataFrame:
    """Nine models, three seeds, two tasks; on recall one trial diverged, one ran out of memory, one has no accuracy."""
    recall = [row(name, "recall", seed) for name in MODELS for seed in range(3)]
    recall[3] = row("mamba2", status="diverged", reason="loss is NaN at step 412")
    recall[9]["test/accuracy"] = float("nan")
    recall[12] = row("rwkv6", status="out_of_memory", reason="12.0 GiB asked, 8.1 GiB free")
    return pd.DataFrame(recall + [row(name, "copying") for name in MODELS])


@pytest.fixture
def trials(frame) -> list[dict]:
    """The rows of the frame on recall."""
    return [one for one in frame.to_dict("records") if one["task"] == "recall"]
