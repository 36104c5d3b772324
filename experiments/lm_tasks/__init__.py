"""lm-eval tasks that need no hub, and what stock ones need to run without it.

- `stdlib_bits_per_byte`: likelihood of the standard library's test files;
- `stdlib_next_line`: which of four lines comes next in one of them;
- stock RULER tasks that generate their own data, with a tokenizer from a local folder.

The tasks are the YAML files beside this one; lm-eval's command line finds them with `--include_path`.
"""

from .stock import generated_task_names, lm_task_folder, lm_task_manager, lm_task_names, stock_task_metadata

__all__ = ["generated_task_names", "lm_task_folder", "lm_task_manager", "lm_task_names", "stock_task_metadata"]
