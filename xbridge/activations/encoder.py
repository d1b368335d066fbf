"""A model folder opened for reading: texts in, states of its layers out.

The one place where tasks and extraction meet tokenizer, family and model. Texts are tokenised as in pretraining, also
word-segmented ones: words are joined (by spaces, where the language has them) and found again by their offsets.

Shape letters: B sentences of a batch, T positions, D features, N sentences.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from xbridge.core.errors import ConfigError, UserError
from xbridge.core.runtime import settle_environment
from xbridge.data.languages import language
from xbridge.models.encoding import max_positions
from xbridge.models.families import Conventions, conventions_for
from xbridge.models.loading import check_vocabulary, load_backbone, load_tokenizer, save_model
from xbridge.models.sites import default_sites, is_decoder_site, match_sites, stacks_of, states_at
from xbridge.ops.masked_pool import Pooling, masked_pool

WordSpans = dict[int, tuple[int, int]]
"""Number of a word -> positions of its first and last piece in the row; words that were cut off are absent."""
Units: TypeAlias = Sequence[tuple[int, ...]]
"""Rows that a sentence gives: for each the positions that it is the mean of, 0 being the text's first piece."""


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
    """What an encoder-decoder's decoder is given when it reads a sentence: its prefix and the text."""
    decoder_lengths: Tensor
    decoder_content: Tensor


class Encoder:
    """A model, its tokenizer and its family's conventions, on the device there is."""

    def __init__(self, model: Any, tokenizer: Any, folder: Path):
        self.folder = folder
        self.tokenizer = tokenizer
        self.conventions: Conventions = conventions_for(model, tokenizer)
        self.model = model.to(f"cuda:{settle_environment().local_rank}" if torch.cuda.is_available() else "cpu")
        self.dim: int = getattr(model.config, "encoder", model.config).hidden_size
        self.sites = default_sites(model)

    @classmethod
    def open(cls, path: Path, *, with_decoder: bool = False) -> "Encoder":
        """Load the model of a train or finetune folder, or a plain from_pretrained folder.

        Of an encoder with an attached decoder the encoder alone is loaded, unless `with_decoder`.
        """
        folder = model_folder(path, with_decoder=with_decoder)
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
        return max_positions(self.model) - self.conventions.num_around()

    def choose_sites(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        """The encoder's layers, or the sites named; `ConfigError` for one that the model does not have."""
        return self.sites if wanted is None else match_sites(self.model, wanted)

    def check_languages(self, languages: Iterable[str]) -> None:
        """`UserError` for a language that the tokenizer has no token for."""
        for lang in languages:
            self.conventions.check_language(lang)

    def rows(self, texts: Sequence[str], lang: str) -> list[Row]:
        """Tokenise texts of one language. A text that the tokenizer has nothing for is one unknown token."""
        pieces = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [self.row(ids, lang) for ids in pieces]

    def word_rows(self, sentences: Sequence[Sequence[str]], lang: str) -> tuple[list[Row], list[WordSpans]]:
        """Tokenise sentences given as words; also where each word's first and last piece stand."""
        if not self.tokenizer.is_fast:
            raise UserError(f"{self.folder}: tagging needs a fast tokenizer (one with tokenizer.json)")
        space = " " if language(lang).is_spaced else ""
        texts = [space.join(words) for words in sentences]
        encoded = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        rows = [self.row(ids, lang) for ids in encoded["input_ids"]]
        spans = [
            word_spans(words, len(space), offsets[: row.stop - row.start], row.start)
            for words, offsets, row in zip(sentences, encoded["offset_mapping"], rows, strict=True)
        ]
        return rows, spans

    def batch(self, rows: Sequence[Row], pad_to: int = 0, decoder_rows: Sequence[Row] | None = None) -> TokenBatch:
        """Pad to the longest row, or to `pad_to` positions. The decoder reads `decoder_rows`, or the same texts."""
        texts = [(row.lang, row.tokens[row.start : row.stop]) for row in decoder_rows or rows]
        prefixes = [self.conventions.target(lang)[0] for lang, _ in texts]
        ids, attention = self._padded([row.tokens for row in rows], pad_to)
        decoder, decoder_attention = self._padded(
            [prefix + text for prefix, (_, text) in zip(prefixes, texts, strict=True)], pad_to
        )
        position = torch.arange(ids.shape[1])
        starts, stops = torch.tensor([row.start for row in rows]), torch.tensor([row.stop for row in rows])
        before = torch.tensor([len(prefix) for prefix in prefixes])
        return TokenBatch(
            ids=ids,
            attention=attention,
            content=(position >= starts[:, None]) & (position < stops[:, None]),
            decoder=decoder,
            decoder_lengths=decoder_attention.sum(dim=1),
            decoder_content=decoder_attention & (torch.arange(decoder.shape[1]) >= before[:, None]),
        )

    def states_at(self, sites: Sequence[str], batch: TokenBatch) -> dict[str, Tensor]:
        """States at `sites`: (batch, time, d) each, `time` the decoder's at decoder sites. Differentiable."""
        ids, attention, decoder = (x.to(self.device) for x in (batch.ids, batch.attention, batch.decoder))
        return states_at(self.model, sites, ids, attention.long(), decoder)

    def states(self, batch: TokenBatch) -> list[Tensor]:
        """States at every default site, the encoder's layers: (batch, time, d) each. Differentiable."""
        return list(self.states_at(self.sites, batch).values())

    def decoder_end(self, batch: TokenBatch) -> Tensor:
        """The last decoder layer at the position that predicts `</s>`, the decoder reading the text: (batch, d)."""
        if not self.model.config.is_encoder_decoder:
            raise ConfigError("task.features", "decoder_end needs a model with a decoder; use mean or first")
        site = f"decoder.{stacks_of(self.model)['decoder']}"
        states_BTD = self.states_at([site], batch)[site]
        end_B = (batch.decoder_lengths - 1).to(self.device)
        states: Tensor = states_BTD[torch.arange(len(end_B), device=self.device), end_B]
        return states.float()

    def pooled(
        self,
        rows: Sequence[Row],
        sites: Sequence[str],
        pooling: Pooling,
        batch_size: int,
        pad_to: int = 0,
        *,
        units: Sequence[Units] | None = None,
        decoder_rows: Sequence[Row] | None = None,
    ) -> dict[str, Tensor]:
        """One vector per sentence at each site: (n, d) float32 on the CPU, in the order of `rows`.

        `mean` averages over the text; `first` and `last` take the first and last position, special tokens included.
        With `units`, one vector per unit of each sentence instead, the mean over its positions in the text (at decoder
        sites of an encoder-decoder: in the text of `decoder_rows`). The result does not depend on the batches.
        """
        ends = np.cumsum([0, *([1] * len(rows) if units is None else map(len, units))])
        found = {site: torch.empty(int(ends[-1]), self.dim) for site in sites}
        order = [i for i in range(len(rows)) if ends[i + 1] > ends[i]]
        order.sort(key=lambda i: (-len(rows[i].tokens), i))
        self.model.eval()
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                heard = None if decoder_rows is None else [decoder_rows[i] for i in chosen]
                batch = self.batch([rows[i] for i in chosen], pad_to, heard)
                target = np.concatenate([np.arange(ends[i], ends[i + 1]) for i in chosen])
                for site, states_BTD in self.states_at(sites, batch).items():
                    attention_BT, content_BT = self._masks(site, batch)
                    if units is not None:
                        vectors = unit_means(states_BTD, content_BT, [units[i] for i in chosen])
                    else:
                        mask_BT = content_BT if pooling == "mean" else attention_BT
                        vectors = masked_pool(states_BTD, mask_BT.to(self.device), pooling)
                    found[site][target] = vectors.float().cpu()
        return found

    def parameters_used(self, *, with_decoder: bool) -> set[int]:
        """`id` of every parameter that encoder states, or decoder states, depend on."""
        whole = self.model
        part = whole.base_model if with_decoder or not whole.config.is_encoder_decoder else whole.get_encoder()
        return {id(parameter) for name, parameter in part.named_parameters() if not name.startswith("pooler.")}

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as a from_pretrained folder."""
        save_model(self.model, self.tokenizer, folder)

    def row(self, ids: Sequence[int], lang: str) -> Row:
        """The row of a text's ids, cut to what the model can read. No ids at all become one unknown token."""
        before, after = self.conventions.source(lang)
        text = list(ids[: self.max_tokens])
        if not text:
            if self.tokenizer.unk_token_id is None:
                raise UserError(f"{self.folder}: a text in {lang} is empty and the tokenizer has no unknown token; "
                                "remove empty texts")  # fmt: skip
            text = [self.tokenizer.unk_token_id]
        return Row([*before, *text, *after], len(before), len(before) + len(text), lang)

    def _masks(self, site: str, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """What is no padding, and what is text, in the sequence that a site's states belong to."""
        if self.model.config.is_encoder_decoder and is_decoder_site(site):
            position = torch.arange(batch.decoder.shape[1])
            return position < batch.decoder_lengths[:, None], batch.decoder_content
        return batch.attention, batch.content

    def _padded(self, rows: Sequence[Sequence[int]], width: int) -> tuple[Tensor, Tensor]:
        """Ids padded on the right, and which of them are not padding."""
        lengths = torch.tensor([len(row) for row in rows])
        width = max(width, int(lengths.max()))
        ids = np.full((len(rows), width), self.conventions.pad)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        return torch.from_numpy(ids), torch.arange(width) < lengths[:, None]


def unit_means(states_BTD: Tensor, content_BT: Tensor, units: Sequence[Units]) -> Tensor:
    """The mean state of each unit: (units of all sentences in order, d), float32 or wider.

    content: (batch, time) bool, which positions are text. units: for each sentence, positions counted from its text's.
    """
    time = states_BTD.shape[1]
    first_B = content_BT.int().argmax(dim=1).tolist()
    flat = [row * time + first + p for row, first in enumerate(first_B) for unit in units[row] for p in unit]
    sizes = np.array([len(unit) for sentence in units for unit in sentence])
    offsets = torch.from_numpy(np.cumsum(sizes) - sizes)
    table = states_BTD.to(torch.promote_types(states_BTD.dtype, torch.float32)).flatten(0, 1)
    device = states_BTD.device
    means: Tensor = embedding_bag(torch.tensor(flat, device=device), table, offsets.to(device), mode="mean")
    return means


def model_folder(path: Path, *, with_decoder: bool = False) -> Path:
    """The from_pretrained folder of a train or finetune folder, or the folder itself; `UserError` without one."""
    folders = [path / "model", path] if with_decoder else [path / "encoder", path / "model", path]
    for folder in folders:
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
