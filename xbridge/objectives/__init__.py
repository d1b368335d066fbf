"""Training objectives, one module each: `Config`, and `build(config, data, ...) -> Objective`."""
