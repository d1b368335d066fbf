"""Labelled data, task kinds (one module each), fine-tuning and zero-shot evaluation."""
