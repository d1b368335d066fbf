"""Scores of translations beyond sacrebleu's, one module each: `Config`, and `build(config) -> Scorer`."""
