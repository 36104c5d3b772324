"""Text: where it comes from, how it is split, and its packed form."""

from .corpus import Corpus, CorpusConfig
from .document import Document
from .standard_library import held_out_documents

__all__ = ["Corpus", "CorpusConfig", "Document", "held_out_documents"]
