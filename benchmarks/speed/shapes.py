"""The models whose training is timed, and the floating-point operations of one of their updates.

Forward pass of one example of s source and t target tokens (special tokens included), L encoder and L decoder layers,
width d, feed-forward width f, V words; a product of (m, k) and (k, n) counts 2 m k n (Chowdhery et al., 2022, appendix
B, for an encoder-decoder; embeddings, norms, softmax and biases are not counted, causal attention is counted whole):

    encoder    L (8 d^2 s + 4 d f s + 4 d s^2)
    decoder    L (8 d^2 t + 4 d f t + 4 d t^2  +  4 d^2 (s + t) + 4 d s t)       the second half is cross-attention
    output     2 d V (t - 1)                                                     the language code is not predicted

An update counts three times that: once forward, twice backward.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Shape:
    """An mBART-shaped model. `words`: 0 = as many as the tokenizer has, else the tokenizer is filled up to them."""

    layers: int
    d_model: int
    ffn: int
    heads: int
    words: int = 0

    def flops_per_token(self, source: NDArray[np.int64], target: NDArray[np.int64], words: int) -> float:
        """Mean FLOPs of training on one non-padded token; `source`, `target`: (n,) lengths of all examples."""
        s, t, d, f = source.astype(np.float64), target.astype(np.float64), self.d_model, self.ffn
        encoder = self.layers * (8 * d**2 * s + 4 * d * f * s + 4 * d * s**2)
        decoder = self.layers * (8 * d**2 * t + 4 * d * f * t + 4 * d * t**2 + 4 * d**2 * (s + t) + 4 * d * s * t)
        output = 2 * d * words * (t - 1)
        return float(3 * (encoder + decoder + output).sum() / (s + t).sum())


SHAPES = {
    "tiny": Shape(layers=1, d_model=16, ffn=32, heads=2),
    "quickstart": Shape(layers=3, d_model=128, ffn=512, heads=4),
    "base": Shape(layers=6, d_model=512, ffn=2048, heads=8),
    "mbart-large": Shape(layers=12, d_model=1024, ffn=4096, heads=16, words=250054),
}
