"""What a tokenizer is, wherever it was loaded from."""

import hashlib
from pathlib import Path
from typing import Any

from xbridge.core.config import digest_of
from xbridge.core.files import sha256_of_path


def identity_of(tokenizer: Any) -> str:
    """Digest of everything that decides how a Hugging Face tokenizer cuts text, wherever it was loaded from."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return hashlib.sha256(backend.to_str().encode("utf-8")).hexdigest()
    file = getattr(tokenizer, "vocab_file", None)
    content = sha256_of_path(Path(file)) if file else None
    return digest_of(type(tokenizer).__name__, sorted(tokenizer.get_vocab().items()), content)
