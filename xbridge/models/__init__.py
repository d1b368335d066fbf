"""Families of pretrained models, and loading and saving them."""
