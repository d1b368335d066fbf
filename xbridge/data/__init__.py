"""Corpora: where text comes from, how it is cleaned and split, and the tokenizer trained on it."""
