"""States of a model's layers for held-out sentences, pooled and stored: written by `extract`, read through `store`."""
