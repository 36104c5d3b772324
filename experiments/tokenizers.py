"""From text to tokens and back: bytes, a local tokenizer.json, or a Hugging Face tokenizer by name.

All are used through `Tokenizer`, and all can be written as a Hugging Face folder that
`transformers.AutoTokenizer.from_pretrained` loads: lm-eval's RULER tasks ask for one.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ..architectures import InvalidInput

END_TOKEN = "<|end|>"
PAD_TOKEN = "<|pad|>"


def round_up(number: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `number`."""
    return -(-number // multiple) * multiple


class Tokenizer(Protocol):
    """What a corpus and an evaluation need of a tokenizer."""

    @property
    def name(self) -> str:
        """What it was loaded by."""
        ...

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding: all tokens, rounded up to a multiple of 8, which matrix units prefer."""
        ...

    @property
    def eos_id(self) -> int:
        """The end token: it separates documents, and stands before a text's first token."""
        ...

    @property
    def fingerprint(self) -> str:
        """Differs between tokenizers that may encode differently; part of the key of a packed corpus."""
        ...

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, with no special tokens added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens; special tokens are left out, bytes that are no UTF-8 become U+FFFD."""
        ...

    def save_pretrained(self, folder: Path) -> Path:
        """Write a folder for `AutoTokenizer.from_pretrained`; returns it."""
        ...


class ByteTokenizer:
    """UTF-8 bytes: tokens 0 to 255 are byte values, 256 ends a document, 257 pads.

    The vocabulary is rounded up to 264 rows; 258 to 263 never occur.
    """

    name = "bytes"
    eos_id = 256
    pad_id = 257
    vocab_size = 264
    fingerprint = "bytes-1"

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", errors="surrogatepass"))

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")

    def save_pretrained(self, folder: Path) -> Path:
        """A byte-level BPE without merges: each byte stands for itself, under the same number as here."""
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        characters = _byte_characters()
        backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(characters)}, merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (END_TOKEN, PAD_TOKEN)])
        fast = PreTrainedTokenizerFast(
            tokenizer_object=backend,
            eos_token=END_TOKEN,
            pad_token=PAD_TOKEN,
            clean_up_tokenization_spaces=False,
            split_special_tokens=True,  # "<|end|>" written in a text is seven bytes, not the end
        )
        folder.mkdir(parents=True, exist_ok=True)
        fast.save_pretrained(folder)
        return folder


def _byte_characters() -> list[str]:
    """The printable character that byte-level BPE writes for each byte, in the order of the bytes (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


class PretrainedTokenizer:
    """A tokenizer of the transformers library, from a local file or folder or from the hub."""

    def __init__(self, name: str, fast: Any, eos_id: int) -> None:
        self.name = name
        self.eos_id = eos_id
        self._fast = fast
        self.vocab_size = round_up(max(len(fast), eos_id + 1), 8)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self._fast.backend_tokenizer.to_str().encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        return self._fast.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        return self._fast.decode(list(ids), skip_special_tokens=True)

    def save_pretrained(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        self._fast.save_pretrained(folder)
        return folder


_END_TOKENS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", END_TOKEN)
"""Tried in turn where a tokenizer.json does not say which token ends a document."""


def load_tokenizer(name: str, end_token: str | None = None) -> Tokenizer:
    """The tokenizer called `name`: `bytes`, a tokenizer.json, a folder with one, or a name on the Hugging Face hub.

    `end_token` names the token that separates documents where the tokenizer itself does not. Raises `InvalidInput`
    if there is no such tokenizer, the hub cannot be reached, or it has no end token.
    """
    if name == ByteTokenizer.name:
        return ByteTokenizer()
    fast = _load_fast(name)
    candidates = [end_token] if end_token else [t for t in (fast.eos_token, *_END_TOKENS) if t]
    vocabulary = fast.get_vocab()
    found = next((token for token in candidates if token in vocabulary), None)
    if found is None:
        asked = f"end_token={end_token!r} is not in it" if end_token else "it has no end token; name one with end_token"
        raise InvalidInput(f"tokenizer {name!r}: {asked}")
    return PretrainedTokenizer(name, fast, vocabulary[found])


def _load_fast(name: str) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    path = Path(name).expanduser()
    if path.is_file():
        try:
            json.loads(path.read_text(encoding="utf-8"))
            return PreTrainedTokenizerFast(tokenizer_file=str(path))
        except Exception as error:
            raise InvalidInput(f"tokenizer {name!r}: not a tokenizer.json: {_first_line(error)}") from error
    if path.is_dir() or not _looks_like_path(name):
        try:
            return AutoTokenizer.from_pretrained(str(path) if path.is_dir() else name)
        except Exception as error:
            reason = "no tokenizer in this folder" if path.is_dir() else _hub_answer()
            raise InvalidInput(f"tokenizer {name!r}: {reason}") from error
    raise InvalidInput(f"tokenizer {name!r}: no such file or folder")


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.endswith(".json")


def _hub_answer() -> str:
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    hub = "the Hugging Face hub is switched off (HF_HUB_OFFLINE)" if offline else "the Hugging Face hub did not give it"
    return f"not 'bytes', not a local file, and {hub}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
