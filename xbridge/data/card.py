"""The data card: what the corpus holds, what was dropped and why, and where it comes from."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from xbridge.data.bitext import Bitext
from xbridge.data.entries import Pool
from xbridge.data.languages import LANGUAGES
from xbridge.data.splitting import RETRIEVAL_RULE

JACCARD_EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def make_card(
    codes: Sequence[str], pool: Pool, bitext: Bitext, jaccard: list[float], sources: list[dict[str, Any]]
) -> dict[str, Any]:
    """The content of card.json.

    `codes`: the study's languages, pivot first. `jaccard`: of every test string, the highest with a training string.
    `sources`: what each source's `describe` said.
    """
    pairs = Counter((row["target_lang"], row["split"]) for row in bitext.train + bitext.held_out)
    mono = Counter((row["lang"], row["split"]) for row in bitext.mono)
    retrieval = Counter(row["target_lang"] for row in bitext.retrieval)
    languages = {
        code: {
            "name": LANGUAGES[code].name,
            "script": LANGUAGES[code].script,
            "family": LANGUAGES[code].family,
            "read": pool.num_read[code],
            "dropped": {name: count for name, count in sorted(pool.dropped[code].items()) if count},
            "leaks_removed": bitext.num_leaks.get(code, 0),
            "pairs": {split: pairs[code, split] for split in ("train", "dev", "test")},
            "mono": {split: mono[code, split] for split in ("train", "dev", "test")},
            "retrieval": retrieval[code],
        }
        for code in codes
    }
    return {
        "pivot": codes[0],
        "languages": languages,
        "nway": bitext.num_nway,
        "near_duplicates": near_duplicate_statistics(jaccard),
        "retrieval_rule": RETRIEVAL_RULE,
        "sources": sources,
    }


def near_duplicate_statistics(jaccard: list[float]) -> dict[str, Any]:
    """Histogram and shares of the test strings' highest word Jaccard with a training string."""
    values = np.array(jaccard, dtype=np.float64)
    counts, _ = np.histogram(values, bins=np.array(JACCARD_EDGES))
    return {
        "num": len(jaccard),
        "edges": list(JACCARD_EDGES),
        "counts": counts.tolist(),
        "share_at_least_0.6": float((values >= 0.6).mean()) if jaccard else 0.0,
        "share_at_least_0.8": float((values >= 0.8).mean()) if jaccard else 0.0,
    }
