"""Kinds of parallel text, one module each; `type: tsv` in a config is `xbridge.data.sources.tsv`.

A module has a `Config`, `read(config, languages, pivot)`, which yields one `Entry` per record in a fixed order, and
`describe(config)`, what the data card says of it (licence, version, file hashes).
"""
