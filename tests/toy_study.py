"""A toy study: 3 languages, a few hundred sentences, a model of width 32; every stage runs for real in seconds."""

import random
from pathlib import Path


def lexicon(text: str) -> dict[str, tuple[str, str]]:
    """`english german spanish` per entry -> {english: (german, spanish)}."""
    entries = [entry.split() for entry in text.split(",")]
    return {english: (german, spanish) for english, german, spanish in entries}


NOUNS = lexicon(
    "lamp lampe lámpara, door tür puerta, window fenster ventana, clock uhr reloj, kitchen küche cocina, "
    "garden garten jardín, heater heizung estufa, bell glocke timbre, pump pumpe bomba, fan lüfter abanico, "
    "roof dach techo, stair treppe escalera"
)
VERBS = lexicon("open öffne abre, close schließe cierra, start starte inicia, check prüfe revisa")
PLACES = lexicon("upstairs oben arriba, outside draußen afuera, today heute hoy, now jetzt ahora")


def toy_sentences() -> list[tuple[str, str, str, str]]:
    """(label, English, German, Spanish): every verb, noun, noun and place."""
    rows = []
    for verb, (de_v, es_v) in VERBS.items():
        for noun, (de_n, es_n) in NOUNS.items():
            for other, (de_o, es_o) in NOUNS.items():
                if noun < other:
                    for place, (de_p, es_p) in PLACES.items():
                        english = f"{verb} {noun} and {other} {place}"
                        rows.append(
                            (verb, english, f"{de_v} {de_n} und {de_o} {de_p}", f"{es_v} {es_n} y {es_o} {es_p}")
                        )
    random.Random(0).shuffle(rows)
    return rows


def write_toy_files(folder: Path) -> None:
    """Write bitext.tsv (a column per language) and labels.tsv (the verb as the label)."""
    rows = toy_sentences()
    bitext = ["\t".join(("eng", "deu", "spa"))] + ["\t".join(row[1:]) for row in rows[:900]]
    (folder / "bitext.tsv").write_text("\n".join(bitext) + "\n", encoding="utf-8")
    labelled = ["\t".join(("id", "split", "lang", "text", "label"))]
    for i, (label, *texts) in enumerate(rows[900:1056]):
        for lang, text in zip(("eng_Latn", "deu_Latn", "spa_Latn"), texts, strict=True):
            split = "test" if i % 3 == 0 else "dev" if i % 3 == 1 and i < 20 else "train"
            if split == "test" or lang == "eng_Latn":
                labelled.append("\t".join((f"{lang}-{i}", split, lang, text, label)))
    (folder / "labels.tsv").write_text("\n".join(labelled) + "\n", encoding="utf-8")


def write_toy_study(folder: Path, files: Path) -> Path:
    """Write toy.yaml, which reads the two files, and return its path."""
    text = (Path(__file__).parent / "study" / "toy.yaml").read_text(encoding="utf-8")
    for name in ("bitext.tsv", "labels.tsv"):
        text = text.replace("FILLED IN", str(files / name), 1)
    path = folder / "toy.yaml"
    path.write_text(text, encoding="utf-8")
    return path
