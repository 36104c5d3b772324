"""What a sweep file may say, and what one trial is: the types, their defaults and their meaning.

``SweepConfig`` is what a person writes (YAML, then ``key=value``), read by ``loading.load_sweep``; ``TrialConfig`` is
what one process runs: one model, one task, one seed, nothing left to decide. ``sweep.expand`` turns the first into a
list of the second.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ..architectures import InvalidInput, nearest

SCHEDULES = ("cosine", "constant", "wsd")
PRECISIONS = ("fp32", "bf16")
BUDGETS = ("parameters", "active_parameters", "flops", "state")


@dataclass(frozen=True)
class TrainingConfig:
    """How a model learns a task: AdamW, a learning rate schedule, and when to look."""

    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 32
    """Sequences per step."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW."""
    schedule: str = "cosine"
    """``cosine`` to ``final_learning_rate``, ``constant``, or ``wsd``: constant, then linear over the last ``decay``
    of the steps."""
    warmup: float = 0.1
    """Share of the steps over which the learning rate rises linearly from zero."""
    decay: float = 0.2
    """Share of the steps over which ``wsd`` decays."""
    final_learning_rate: float = 0.1
    """Where ``cosine`` and ``wsd`` end, as a share of the peak."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices; norms, biases and decay parameters have none."""
    beta1: float = 0.9
    """AdamW's decay of the gradient's mean."""
    beta2: float = 0.95
    """AdamW's decay of the gradient's square."""
    gradient_clip: float = 1.0
    """Largest gradient norm; 0 leaves gradients alone."""
    auxiliary_loss: float = 0.01
    """Weight of the mixtures' load-balancing loss."""
    precision: str = "fp32"
    """``fp32``, or ``bf16`` autocast over fp32 weights."""
    log_every: int = 20
    """Steps between rows of the curve; each row is the mean since the last."""
    evaluate_every: int = 0
    """Steps between looks at the validation split; 0 looks only at the end."""
    stop_at: float | None = None
    """Validation accuracy at which training has succeeded and ends early."""
    divergence: float = 10.0
    """A mean training loss above this many times that of uniform guessing (ln V) ends the trial as ``diverged``."""
    checkpoint_every: float = 60.0
    """Seconds between checkpoints from which a killed trial continues; 0 writes none."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "a whole number above 0")
        _require(self.evaluate_every >= 0, "evaluate_every", self.evaluate_every, "0 or more steps")
        for name in ("learning_rate", "divergence"):
            _require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "a number above 0")
        for name in ("warmup", "decay", "final_learning_rate"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a share between 0 and 1")
        for name in ("beta1", "beta2"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "at least 0 and below 1")
        for name in ("weight_decay", "gradient_clip", "auxiliary_loss", "checkpoint_every"):
            _require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "0 or more")
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("precision", self.precision, PRECISIONS)
        if self.stop_at is not None:
            _require(0 < self.stop_at <= 1, "stop_at", self.stop_at, "an accuracy above 0, at most 1")


@dataclass(frozen=True)
class LmEvalConfig:
    """What lm-eval's own evaluator asks of a language model."""

    tasks: list[str] = field(default_factory=list)
    """Names of lm-eval tasks: stock ones and those of ``experiments/lm_tasks``; empty asks nothing."""
    limit: int | None = None
    """Examples per task; none takes all."""
    num_fewshot: int | None = None
    """Examples in the prompt; none leaves each task its own."""
    lengths: list[int] = field(default_factory=list)
    """Tokens per prompt for tasks that make their own data (RULER's ``max_seq_lengths``)."""
    batch_size: int = 32
    """Requests per forward pass."""
    max_length: int = 8192
    """Tokens a request may have; longer ones lose their beginning."""
    rolling_length: int | None = None
    """Tokens per window where whole texts are scored (bits per byte); none takes the length the model was trained
    at."""

    def __post_init__(self) -> None:
        if self.limit is not None:
            _require(self.limit > 0, "limit", self.limit, "a whole number above 0, or null")
        if self.num_fewshot is not None:
            _require(self.num_fewshot >= 0, "num_fewshot", self.num_fewshot, "0 or more, or null")
        if self.rolling_length is not None:
            _require(self.rolling_length > 0, "rolling_length", self.rolling_length, "a whole number above 0, or null")
        for name in ("batch_size", "max_length"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "a whole number above 0")
        _require(all(length > 0 for length in self.lengths), "lengths", self.lengths, "whole numbers above 0")


@dataclass(frozen=True)
class EfficiencyConfig:
    """What is measured of a trained model's speed and memory."""

    lengths: list[int] = field(default_factory=lambda: [128, 512, 2048])
    """Tokens of context at which prefill, decoding and the cache are measured; empty measures none."""
    batch_size: int = 1
    """Sequences prefilled and decoded together."""
    decode_tokens: int = 16
    """Tokens decoded per repetition."""
    seconds: float = 0.1
    """Time given to each measurement after its warm-up; at least three repetitions are taken."""

    def __post_init__(self) -> None:
        _require(all(length > 0 for length in self.lengths), "lengths", self.lengths, "whole numbers above 0")
        for name in ("batch_size", "decode_tokens"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "a whole number above 0")
        _require(0 < self.seconds < math.inf, "seconds", self.seconds, "a number above 0")


@dataclass(frozen=True)
class EvaluationConfig:
    """What is asked of a model besides its training loss."""

    validation_batches: int = 8
    """Batches of the validation split per look; a corpus with fewer gives what it has."""
    test_batches: int = 16
    """Batches of the test split at the end; a corpus with fewer gives what it has."""
    batch_size: int | None = None
    """Sequences per evaluation batch; none takes the training batch size."""
    lm_eval: LmEvalConfig = field(default_factory=LmEvalConfig)
    """lm-eval tasks, asked of trials whose task has a tokenizer."""
    efficiency: EfficiencyConfig = field(default_factory=EfficiencyConfig)
    """Measured speed and memory."""

    def __post_init__(self) -> None:
        for name in ("validation_batches", "test_batches"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "a whole number above 0")
        if self.batch_size is not None:
            _require(self.batch_size > 0, "batch_size", self.batch_size, "a whole number above 0, or null")


@dataclass(frozen=True)
class ModelSpec:
    """A model as a sweep file describes it, before the budget has chosen its widths."""

    pattern: str | None = None
    """The layers, in the pattern language: ``(mamba2 mlp)*7 (attn moe)``."""
    mix: dict[str, Any] = field(default_factory=dict)
    """Instead of a pattern: the fields of ``architectures.Mix`` (mixers, ratio, placement, depth, …)."""
    d_model: int | None = None
    """Width; where the sweep matches a budget, only where the search starts."""
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Options by layer name (``attn: {n_heads: 4}``); braces in the pattern win."""
    tie_embeddings: bool | None = None
    """One matrix for embedding and output (the default)."""
    norm_eps: float | None = None
    """Added under the root of every norm."""
    parallel: str | None = None
    """How parallel branches join: ``average`` (after a norm each, the default) or ``sum``."""
    embedding_scale: float | None = None
    """Multiplies the embeddings as they enter the stream (1)."""
    residual_scale: float | None = None
    """Multiplies what each sublayer adds to the stream (1)."""
    logit_scale: float | None = None
    """Multiplies the logits (1)."""
    logit_cap: float | None = None
    """Soft cap of the logits, cap * tanh(logits / cap); none unless given."""
    match: bool = True
    """Whether the sweep's budget applies to this model."""

    def __post_init__(self) -> None:
        if self.d_model is not None:
            _require(self.d_model > 0, "d_model", self.d_model, "a whole number above 0")
        if self.norm_eps is not None:
            _require(self.norm_eps > 0, "norm_eps", self.norm_eps, "a number above 0")


@dataclass(frozen=True)
class MatchConfig:
    """What all models of a sweep have equally much of; ``architectures.Budget`` has the details."""

    by: str = "parameters"
    """``parameters``, ``active_parameters``, ``flops`` (forward, per token) or ``state`` (decoding, bytes)."""
    value: float | None = None
    """The budget, in what ``by`` counts."""
    like: str | None = None
    """Instead of a value: the model, as written, whose own amount is the budget."""
    tolerance: float = 0.02
    """Largest mismatch allowed, as a share of the budget; a sweep above it is refused."""
    multiple: int = 8
    """Widths are multiples of this."""
    sequence_length: int = 1024
    """Tokens per sequence where ``by`` depends on them."""
    d_model: int | None = None
    """Hold this width for all models and search the finer ones alone."""
    fine: list[str] | None = None
    """The finer widths, as ``layer.option``; none takes the hidden widths of MLPs and experts."""
    vocab_size: int | None = None
    """Vocabulary at which models are compared; none takes the largest of the sweep's tasks. Embeddings count."""

    def __post_init__(self) -> None:
        _one_of("by", self.by, BUDGETS)
        if (self.value is None) == (self.like is None):
            _refuse("value", self.value, "a number, or none beside like: the name of a model")
        if self.vocab_size is not None:
            _require(self.vocab_size > 0, "vocab_size", self.vocab_size, "a whole number above 0")


@dataclass(frozen=True)
class SelectConfig:
    """Axes that are only tuned: of their values the one best on validation stands for the model."""

    over: list[str] = field(default_factory=list)
    """Keys of ``axes``."""
    metric: str = "validation/loss"
    """A metric of the validation split, averaged over seeds."""
    mode: str = "min"
    """``min`` or ``max``."""

    def __post_init__(self) -> None:
        if not self.metric.startswith("validation/"):
            _refuse("metric", self.metric, "a validation metric: choosing on test data would flatter the chosen")
        _one_of("mode", self.mode, ("min", "max"))


@dataclass(frozen=True)
class ResourcesConfig:
    """What one trial takes of the cluster, and how many may run at once."""

    cpus: float = 1.0
    """CPU cores per trial; also the threads of PyTorch (at least one)."""
    gpus: float = 0.0
    """GPUs per trial; a share (0.25) packs several on one."""
    max_concurrent: int | None = None
    """Trials at a time; none leaves it to the cluster's size."""

    def __post_init__(self) -> None:
        _require(0 < self.cpus < math.inf, "cpus", self.cpus, "a number above 0")
        _require(0 <= self.gpus < math.inf, "gpus", self.gpus, "0 or more")
        if self.max_concurrent is not None:
            _require(self.max_concurrent > 0, "max_concurrent", self.max_concurrent, "a whole number above 0, or null")

    @property
    def threads(self) -> int:
        """PyTorch threads of one trial."""
        return max(1, int(self.cpus))


@dataclass(frozen=True)
class SweepConfig:
    """Which models, on which tasks, at which budget, with which seeds."""

    name: str = ""
    """The folder under ``runs/`` and the experiment's name; empty takes the file's."""
    description: str = ""
    """One sentence for people."""
    models: dict[str, ModelSpec] = field(default_factory=dict)
    """By name."""
    defaults: ModelSpec = field(default_factory=ModelSpec)
    """What every model has unless it says otherwise."""
    match: MatchConfig | None = None
    """The budget; none takes every model as it is written."""
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name: ``kind`` and that kind's options; ``training`` and ``evaluation`` override the sweep's for this task."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How every model learns."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What every model is asked."""
    seeds: list[int] = field(default_factory=lambda: [0])
    """One trial for each: seeds the weights and the order of the data."""
    axes: dict[str, list[Any]] = field(default_factory=dict)
    """By trial key (``training.learning_rate``, ``model.d_model``, ``task.pairs``): the values, crossed with
    everything else."""
    select: SelectConfig | None = None
    """Which axes are only tuned."""
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    """Per trial; no part of a trial's identity."""

    def __post_init__(self) -> None:
        if self.name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            _refuse("name", self.name, "letters, digits, '.', '_' and '-': it names a folder")
        _require(
            len(set(self.seeds)) == len(self.seeds) > 0, "seeds", self.seeds, "one or more different whole numbers"
        )


@dataclass(frozen=True)
class TrialConfig:
    """One model, one task, one seed, fully resolved: all that determines the result, and the names it is shown
    under."""

    name: str
    """The model's name in the sweep."""
    model: Mapping[str, Any]
    """``ModelConfig.to_dict()``: widths chosen, pattern canonical, the task's vocabulary."""
    task_name: str
    """The task's name in the sweep."""
    task: Mapping[str, Any]
    """``kind`` and every option of the task."""
    training: TrainingConfig
    evaluation: EvaluationConfig
    seed: int
    axes: Mapping[str, Any] = field(default_factory=dict)
    """The values this trial has on the sweep's axes."""
    mismatch: float | None = None
    """Signed distance of the model from the sweep's budget, as a share of it; none without a budget."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; ``from_dict`` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "TrialConfig":
        evaluation = dict(plain["evaluation"])
        evaluation["lm_eval"] = LmEvalConfig(**evaluation["lm_eval"])
        evaluation["efficiency"] = EfficiencyConfig(**evaluation["efficiency"])
        return cls(
            **{**plain, "training": TrainingConfig(**plain["training"]), "evaluation": EvaluationConfig(**evaluation)}
        )


def _refuse(key: str, value: object, right: str) -> NoReturn:
    raise InvalidInput(f"{key}: {value!r} is not possible; it takes {right}")


def _require(holds: bool, key: str, value: object, right: str) -> None:
    if not holds:
        _refuse(key, value, right)


def _one_of(key: str, value: str, options: tuple[str, ...]) -> None:
    if value not in options:
        raise InvalidInput(f"{key}: unknown value {value!r}; {nearest(value, options)}")
