"""What is studied: tasks, corpora, tokenizers, lm-eval tasks and sweeps."""

from .corpora import Corpus, CorpusConfig, Document, held_out_documents
from .language_modelling import LanguageModelling, LanguageModellingConfig
from .lm_tasks import generated_task_names, lm_task_folder, lm_task_manager, lm_task_names, stock_task_metadata
from .probes import (
    Copying,
    CopyingConfig,
    Induction,
    InductionConfig,
    MultiQueryRecall,
    RecallConfig,
    SelectiveCopying,
    SelectiveCopyingConfig,
)
from .sweeps import sweep_names, sweep_path
from .task import SPLITS, UNLABELLED, Batch, Score, Split, Task, TaskConfig, task_config, task_names
from .tokenizers import ByteTokenizer, Tokenizer, load_tokenizer

__all__ = [
    "SPLITS",
    "UNLABELLED",
    "Batch",
    "ByteTokenizer",
    "Copying",
    "CopyingConfig",
    "Corpus",
    "CorpusConfig",
    "Document",
    "Induction",
    "InductionConfig",
    "LanguageModelling",
    "LanguageModellingConfig",
    "MultiQueryRecall",
    "RecallConfig",
    "Score",
    "SelectiveCopying",
    "SelectiveCopyingConfig",
    "Split",
    "Task",
    "TaskConfig",
    "Tokenizer",
    "generated_task_names",
    "held_out_documents",
    "lm_task_folder",
    "lm_task_manager",
    "lm_task_names",
    "load_tokenizer",
    "stock_task_metadata",
    "sweep_names",
    "sweep_path",
    "task_config",
    "task_names",
]
