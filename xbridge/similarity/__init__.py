"""Measures of similarity between sets of activations."""

from xbridge.ops.margin_topk import margin_scores, nearest

__all__ = ["margin_scores", "nearest"]
