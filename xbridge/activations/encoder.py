"""A model folder opened for reading: texts in, states of every encoder layer out.

The one place where tasks and extraction meet tokenizer, family and model. Texts are tokenised as in pretraining, also
word-segmented ones: words are joined (by spaces, where the language has them) and found again by their offsets.

Shape letters: B sentences of a batch, T positions, D features, N sentences.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xbridge.core.errors import ConfigError, UserError
from xbridge.core.runtime import settle_environment
from xbridge.data.languages import language
from xbridge.models.families import Conventions, conventions_of, encode, num_encoder_layers
from xbridge.models.loading import check_vocabulary, load_backbone, load_tokenizer, save_model
from xbridge.ops.masked_pool import Pooling, masked_pool

WordSpans = dict[int, tuple[int, int]]
"""Number of a word -> positions of its first and last piece in the row; words that were cut off are absent."""


class Row(NamedTuple):
    """One sentence as the encoder reads it. `tokens[start:stop]` is the text, the rest language code and `</s>`."""

    tokens: list[int]
    start: int
    stop: int
    lang: str


class TokenBatch(NamedTuple):
    """Padded rows. All (batch, time): ids int64, masks bool (attention: no padding; content: text only)."""

    ids: Tensor
    attention: Tensor
    content: Tensor
    decoder: Tensor
    """What the decoder is given when it reads the sentence: its prefix and the text."""
    decoder_lengths: Tensor


class Encoder:
    """A model, its tokenizer and its family's conventions, on the device there is."""

    def __init__(self, model: Any, tokenizer: Any, folder: Path):
        self.folder = folder
        self.tokenizer = tokenizer
        self.conventions: Conventions = conventions_of(model.config.model_type, tokenizer)
        self.model = model.to(f"cuda:{settle_environment().local_rank}" if torch.cuda.is_available() else "cpu")
        self.dim: int = model.get_input_embeddings().weight.shape[1]
        self.sites = tuple(f"encoder.{i}" for i in range(num_encoder_layers(model) + 1))

    @classmethod
    def open(cls, path: Path) -> "Encoder":
        """Load the model of a train or finetune folder, or a plain from_pretrained folder."""
        folder = model_folder(path)
        model, tokenizer = load_backbone(folder), load_tokenizer(folder)
        check_vocabulary(model, tokenizer, str(folder))
        return cls(model, tokenizer, folder)

    @property
    def device(self) -> torch.device:
        """Where the model is now."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens, special tokens not counted; longer ones are cut."""
        positions = getattr(self.model.config, "max_position_embeddings", None) or 512
        lang = next(iter(self.conventions.languages))
        before, after = self.conventions.source(lang)
        decoder, _ = self.conventions.target(lang)
        return int(positions) - max(len(before) + len(after), len(decoder))

    def choose_sites(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        """All sites, or those named; `ConfigError` for one that the model does not have."""
        for site in wanted or ():
            if site not in self.sites:
                raise ConfigError("sites", f"the model has no site {site!r}; it has {', '.join(self.sites)}")
        return self.sites if wanted is None else tuple(wanted)

    def check_languages(self, languages: Iterable[str]) -> None:
        """`UserError` for a language that the tokenizer has no token for."""
        for lang in languages:
            self.conventions.language_id(lang)

    def rows(self, texts: Sequence[str], lang: str) -> list[Row]:
        """Tokenise texts of one language. A text that the tokenizer has nothing for is one unknown token."""
        pieces = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [self._row(ids, lang) for ids in pieces]

    def word_rows(self, sentences: Sequence[Sequence[str]], lang: str) -> tuple[list[Row], list[WordSpans]]:
        """Tokenise sentences given as words; also where each word's first and last piece stand."""
        if not self.tokenizer.is_fast:
            raise UserError(f"{self.folder}: tagging needs a fast tokenizer (one with tokenizer.json)")
        space = " " if language(lang).is_spaced else ""
        texts = [space.join(words) for words in sentences]
        encoded = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        rows = [self._row(ids, lang) for ids in encoded["input_ids"]]
        spans = [
            word_spans(words, len(space), offsets[: row.stop - row.start], row.start)
            for words, offsets, row in zip(sentences, encoded["offset_mapping"], rows, strict=True)
        ]
        return rows, spans

    def batch(self, rows: Sequence[Row], pad_to: int = 0) -> TokenBatch:
        """Pad to the longest row, or to `pad_to` positions."""
        pad = self.conventions.pad
        width = max(pad_to, max(len(row.tokens) for row in rows))
        decoder = [self.conventions.target(row.lang)[0] + row.tokens[row.start : row.stop] for row in rows]
        ids, content = np.full((len(rows), width), pad), np.zeros((len(rows), width), dtype=bool)
        decoder_ids = np.full((len(rows), max(map(len, decoder))), pad)
        for i, row in enumerate(rows):
            ids[i, : len(row.tokens)] = row.tokens
            content[i, row.start : row.stop] = True
            decoder_ids[i, : len(decoder[i])] = decoder[i]
        lengths = torch.tensor([len(row.tokens) for row in rows])
        return TokenBatch(
            ids=torch.from_numpy(ids),
            attention=torch.arange(width) < lengths[:, None],
            content=torch.from_numpy(content),
            decoder=torch.from_numpy(decoder_ids),
            decoder_lengths=torch.tensor([len(d) for d in decoder]),
        )

    def states(self, batch: TokenBatch) -> list[Tensor]:
        """Encoder states at every site: (batch, time, d) each. Differentiable."""
        ids, attention = batch.ids.to(self.device), batch.attention.to(self.device)
        return encode(self.model, ids, attention.long())

    def decoder_end(self, batch: TokenBatch) -> Tensor:
        """The last decoder layer at the position that predicts `</s>`, the decoder reading the text: (batch, d)."""
        if not self.model.config.is_encoder_decoder:
            raise ConfigError("task.features", "decoder_end needs a model with a decoder; use mean or first")
        ids_BT, end_B = batch.decoder.to(self.device), (batch.decoder_lengths - 1).to(self.device)
        output = self.model.base_model(
            input_ids=batch.ids.to(self.device),
            attention_mask=batch.attention.long().to(self.device),
            decoder_input_ids=ids_BT,  # causal: padding comes after the position that is read
        )
        states: Tensor = output.last_hidden_state[torch.arange(len(ids_BT), device=self.device), end_B]
        return states.float()

    def pooled(
        self, rows: Sequence[Row], sites: Sequence[str], pooling: Pooling, batch_size: int, pad_to: int = 0
    ) -> dict[str, Tensor]:
        """One vector per sentence at each site: (n, d) float32 on the CPU, in the order of `rows`.

        `mean` averages over the text; `first` and `last` take the first and last position, special tokens included.
        """
        numbers = [self.sites.index(site) for site in sites]
        found = {site: torch.empty(len(rows), self.dim) for site in sites}
        order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].tokens), i))
        self.model.eval()
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                batch = self.batch([rows[i] for i in chosen], pad_to)
                mask_BT = (batch.content if pooling == "mean" else batch.attention).to(self.device)
                states = self.states(batch)
                for site, number in zip(sites, numbers, strict=True):
                    found[site][chosen] = masked_pool(states[number], mask_BT, pooling).float().cpu()
        return found

    def parameters_used(self, *, with_decoder: bool) -> set[int]:
        """`id` of every parameter that encoder states, or decoder states, depend on."""
        whole = self.model
        part = whole.base_model if with_decoder or not whole.config.is_encoder_decoder else whole.get_encoder()
        return {id(parameter) for name, parameter in part.named_parameters() if not name.startswith("pooler.")}

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as a from_pretrained folder."""
        save_model(self.model, self.tokenizer, folder)

    def _row(self, ids: Sequence[int], lang: str) -> Row:
        before, after = self.conventions.source(lang)
        text = list(ids[: self.max_tokens]) or [self.tokenizer.unk_token_id]
        return Row([*before, *text, *after], len(before), len(before) + len(text), lang)


def model_folder(path: Path) -> Path:
    """The from_pretrained folder of a train or finetune folder, or the folder itself; `UserError` without one."""
    for folder in (path / "model", path):
        if folder.is_dir() and any(folder.glob("*.safetensors")):
            return folder
    raise UserError(f"{path}: holds no model; give a finished train or finetune folder, or a from_pretrained folder")


def word_spans(words: Sequence[str], space: int, offsets: Sequence[tuple[int, int]], shift: int) -> WordSpans:
    """Pieces of each word by character offsets in the words joined with `space` characters between them.

    `offsets`: (start, stop) of each piece. A word's first piece is the last one that covers its first character (a bare
    word-boundary mark may cover it too); positions are counted from `shift`.
    """
    covering: dict[int, int] = {}
    for position, (start, stop) in enumerate(offsets):
        for character in range(start, stop):
            covering[character] = position
    spans: WordSpans = {}
    begin = 0
    for number, word in enumerate(words):
        end = begin + len(word)
        found = [covering[character] for character in range(begin, end) if character in covering]
        if found:
            spans[number] = (shift + found[0], shift + found[-1])
        begin = end + space
    return spans
