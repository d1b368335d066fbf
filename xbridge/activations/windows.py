"""One language read window by window: what a model reads of each sentence, which rows that gives, and their states.

Two models can be read side by side; the rows are then those that both have.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from xbridge.activations.encoder import Encoder, Row
from xbridge.activations.reading import PER_SENTENCE, Reading, RowKind, read, restrict
from xbridge.activations.sentences import Sentences

WINDOW_SENTENCES = {"words": 256, "tokens": 256}  # divisors of a rank's block; fewer where a sentence gives many rows
SENTENCES = 1024


class Window(NamedTuple):
    """Sentences `start` to `stop`. By model: what is read, and by the decoder where that is something else."""

    start: int
    stop: int
    readings: dict[str, list[Reading]]
    decoder_rows: dict[str, list[Row] | None]

    def keys(self) -> Iterator[tuple[int, int]]:
        """(number of the sentence, number of its word or token) of every row, in order; the same for all models."""
        for index, reading in enumerate(next(iter(self.readings.values()))):
            yield from ((self.start + index, number) for number in reading.numbers)

    @property
    def num_rows(self) -> int:
        """Rows of all sentences."""
        return sum(len(reading.numbers) for reading in next(iter(self.readings.values())))

    @property
    def num_cut(self) -> int:
        """Sentences that a model could not read whole."""
        return sum(any(r.is_cut for r in same) for same in zip(*self.readings.values(), strict=True))


@dataclass(frozen=True, kw_only=True)
class LanguageReader:
    """One language's sentences, and the models that read them, by name."""

    lang: str
    sentences: Sentences
    heard: tuple[str, Sequence[str]] | None
    """What decoders read instead of the sentences: language and texts."""
    encoders: Mapping[str, Encoder]
    sites: Mapping[str, tuple[str, ...]]
    kind: RowKind
    batch_size: int

    def windows(self, first: int, last: int) -> Iterator[Window]:
        """Sentences `first` to `last`, tokenised."""
        size = WINDOW_SENTENCES.get(self.kind, SENTENCES)
        for start in range(first, last, size):
            yield self.window(start, min(start + size, last))

    def window(self, start: int, stop: int) -> Window:
        """These sentences, tokenised."""
        texts = self.sentences.texts[start:stop]
        readings: dict[str, list[Reading]] = {}
        decoder_rows: dict[str, list[Row] | None] = {}
        for name, encoder in self.encoders.items():
            readings[name], decoder_rows[name] = read(encoder, texts, self.lang, self.kind), None
            if self.heard is not None:
                lang, heard = self.heard
                spoken = read(encoder, heard[start:stop], lang, self.kind)
                decoder_rows[name] = [reading.row for reading in spoken]
                readings[name] = [_rows_of(own, other) for own, other in zip(readings[name], spoken, strict=True)]
        if self.kind not in PER_SENTENCE and len(readings) > 1:
            common = [
                set.intersection(*(set(r.numbers) for r in same)) for same in zip(*readings.values(), strict=True)
            ]
            for name, own in readings.items():
                readings[name] = [restrict(reading, kept) for reading, kept in zip(own, common, strict=True)]
        return Window(start, stop, readings, decoder_rows)

    def states(self, window: Window) -> dict[tuple[str, str], Tensor]:
        """By model and site: (rows, d) float32."""
        found = {}
        for name, encoder in self.encoders.items():
            readings = window.readings[name]
            states = encoder.pooled(
                [reading.row for reading in readings],
                self.sites[name],
                "mean" if self.kind == "words" or self.kind == "tokens" else self.kind,
                self.batch_size,
                units=None if self.kind in PER_SENTENCE else [reading.units for reading in readings],
                decoder_rows=window.decoder_rows[name],
            )
            found.update({(name, site): rows for site, rows in states.items()})
        return found

    @property
    def has_row_per_sentence(self) -> bool:
        """False where rows are words or tokens."""
        return self.kind in PER_SENTENCE

    @property
    def layers(self) -> dict[tuple[str, str], int]:
        """Features of each layer, by (model, site), in the order of `states`."""
        return {(name, site): encoder.dim for name, encoder in self.encoders.items() for site in self.sites[name]}


def _rows_of(own: Reading, heard: Reading) -> Reading:
    """What the encoder reads, with the rows of what the decoder reads."""
    if not own.row.tokens:
        return restrict(own, ())
    return heard._replace(row=own.row, is_cut=own.is_cut or heard.is_cut)
