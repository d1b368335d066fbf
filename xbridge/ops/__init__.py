"""Operators: each file holds one operator's definition in plain PyTorch, with formula, source, shapes and cost."""
