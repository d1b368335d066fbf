"""Toy parallel text, and a wheel in the layout of the real one."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

VERBS = [("open", "öffne", "открой"), ("close", "schließe", "закрой"), ("check", "prüfe", "проверь")]
NOUNS = [("window", "Fenster", "окно"), ("door", "Tür", "дверь"), ("gate", "Tor", "ворота"), ("lamp", "Lampe", "лампу")]
PLACES = [
    ("house", "Haus", "доме"),
    ("garden", "Garten", "саду"),
    ("cellar", "Keller", "подвале"),
    ("school", "Schule", "школе"),
    ("church", "Kirche", "церкви"),
    ("shop", "Laden", "магазине"),
    ("castle", "Schloss", "замке"),
    ("forest", "Wald", "лесу"),
]
TIMES = [("today", "heute", "сегодня"), ("tomorrow", "morgen", "завтра"), ("now", "jetzt", "сейчас")]
CODES = ("eng_Latn", "deu_Latn", "rus_Cyrl")


@pytest.fixture(scope="session")
def toy_rows() -> list[dict[str, str]]:
    """288 sentences in English, German and Russian."""
    rows = []
    for verb in VERBS:
        for noun in NOUNS:
            for place in PLACES:
                for time in TIMES:
                    texts = (
                        f"{verb[0]} the {noun[0]} of the {place[0]} {time[0]}",
                        f"{verb[1]} {time[1]} {noun[1]} im {place[1]}",
                        f"{time[2]} {verb[2]} {noun[2]} в {place[2]}",
                    )
                    rows.append(dict(zip(CODES, texts, strict=True)))
    return rows


@pytest.fixture
def toy_jsonl(tmp_path, toy_rows):
    """Write rows as JSON lines, absent texts as null, and return a corpus source that reads them."""

    def write(rows=None, name="toy.jsonl"):
        path = tmp_path / name
        empty = dict.fromkeys(CODES)
        lines = [json.dumps(empty | row, ensure_ascii=False) for row in (toy_rows if rows is None else rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return {"type": "jsonl", "path": str(path), "columns": {code: code for code in CODES}}

    return write


@pytest.fixture
def make_wheel(tmp_path):
    """Build a wheel from {component: {locale: catalogue}}; returns (path, sha256)."""

    def build(catalogues, folder: Path = tmp_path, version="1.2.3"):
        path = folder / f"homeassistant-{version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            about = f"Metadata-Version: 2.1\nName: homeassistant\nVersion: {version}\n"
            archive.writestr(f"homeassistant-{version}.dist-info/METADATA", about)
            archive.writestr(f"homeassistant-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr("homeassistant/components/light/manifest.json", "{}")
            for component, by_locale in catalogues.items():
                for locale, catalogue in by_locale.items():
                    member = f"homeassistant/components/{component}/translations/{locale}.json"
                    archive.writestr(member, catalogue if isinstance(catalogue, str) else json.dumps(catalogue))
        return path, hashlib.sha256(path.read_bytes()).hexdigest()

    return build
