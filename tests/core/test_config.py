"""The config language: what a person may write, and the one line that they get when it is wrong."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from xbridge.core.config import (
    InputPath,
    InputPathOrId,
    Plugin,
    apply_overrides,
    canonical,
    digest_of,
    dump_yaml,
    load_yaml,
    parse,
    parse_yaml,
    undigested,
)
from xbridge.core.errors import ConfigError, UserError


@dataclass(frozen=True, kw_only=True)
class Inner:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)


@dataclass(frozen=True, kw_only=True)
class Outer:
    languages: tuple[str, ...]
    inner: Inner = Inner()
    steps: int | None = None
    unit: Literal["steps", "tokens"] = "steps"
    weights: dict[str, float] | None = None
    shuffle: bool = False
    workers: int = undigested(2)


def read(text: str) -> Outer:
    return parse(Outer, parse_yaml(text, "test.yaml"))


def test_norwegian_is_a_language_and_not_false():
    assert read("languages: [en, no, de, on, off, yes]").languages == ("en", "no", "de", "on", "off", "yes")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-2", -2),
        ("0x1f", 31),
        ("0o17", 15),
        ("010", 10),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2026-11-22", "2026-11-22"),
        ("true", True),
        ("Yes", "Yes"),
        ("null", None),
        ("~", None),
        ("", None),
        ("'no'", "no"),
        (".inf", float("inf")),
        ("-.inf", float("-inf")),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    result = parse_yaml(f"key: {text}", "x")["key"]
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("languges: [de]", "languges: unknown key; did you mean 'languages'?"),
        ("languages: [de]\ninner: {lrr: 1}", "inner.lrr: unknown key; did you mean 'lr'?"),
        ("languages: de", 'languages: expected a list, got "de"'),
        ("languages: [1]", "languages.0: expected a text, got 1; put quotes around it"),
        ("languages: [de]\ninner: {lr: fast}", 'inner.lr: expected a number, got "fast"'),
        ("languages: [de]\nsteps: 1.5", "steps: expected a whole number, got 1.5"),
        ("languages: [de]\nsteps: true", "steps: expected a whole number, got true"),
        ("languages: [de]\nshuffle: 1", "shuffle: expected true or false, got 1"),
        ("languages: [de]\nunit: bytes", 'unit: "bytes" is not one of steps, tokens'),
        ("languages: [de]\ninner: {betas: [0.9]}", "inner.betas: expected 2 items, got 1"),
        ("steps: 3", "languages: is required"),
        ("languages: [de]\nweights: {de: x}", 'weights.de: expected a number, got "x"'),
    ],
)
def test_each_mistake_names_its_path(text, message):
    with pytest.raises(ConfigError) as error:
        read(text)
    assert str(error.value) == message


def test_dumped_yaml_reads_back_as_the_same_data():
    data = {
        "texts": ["no", "1e5", "1.5", "true", "~", "", "010", "2026-11-22", "语言"],
        "numbers": [1e5, 3e-4, 7, True, None],
    }
    assert parse_yaml(dump_yaml(data), "dumped") == data


def test_yaml_errors_name_file_and_line():
    with pytest.raises(UserError, match=r"^test\.yaml:2: not valid YAML: key 'a' is given twice$"):
        parse_yaml("a: 1\na: 2", "test.yaml")
    with pytest.raises(UserError, match=r"^test\.yaml:1: not valid YAML"):
        parse_yaml("a: [1", "test.yaml")


def test_yaml_tags_cannot_make_python_objects():
    with pytest.raises(UserError, match="not valid YAML"):
        parse_yaml("a: !!python/object/apply:os.system [true]", "x")


def test_missing_binary_and_scalar_config_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.yaml: no such config file"):
        load_yaml(tmp_path / "absent.yaml")
    (tmp_path / "latin1.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(UserError, match=r"latin1\.yaml: not UTF-8 \(byte 9\)"):
        load_yaml(tmp_path / "latin1.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="must be a mapping"):
        load_yaml(tmp_path / "list.yaml")


def test_overrides_set_nested_values_and_list_items_without_touching_the_original():
    data = {"inner": {"lr": 1}, "languages": ["en", "de"]}
    changed = apply_overrides(data, ["inner.lr=3e-4", "languages.1=no", "new.deep=[1, 2]"])
    assert changed == {"inner": {"lr": 3e-4}, "languages": ["en", "no"], "new": {"deep": [1, 2]}}
    assert data == {"inner": {"lr": 1}, "languages": ["en", "de"]}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "write it as key=value"),
        ("languages.7=de", "languages.7: no such list item; the list has 2"),
        ("steps.deep=1", "steps.deep: the value above it is not a mapping or a list"),
    ],
)
def test_a_malformed_override_says_what_is_wrong(override, message):
    with pytest.raises(UserError, match=message):
        apply_overrides({"languages": ["en", "de"], "steps": 3}, [override])


def test_digest_ignores_key_order_and_undigested_fields_and_nothing_else():
    one = read("languages: [de]\ninner: {lr: 0.1}\nworkers: 8")
    same = read("workers: 1\ninner: {betas: [0.9, 0.98], lr: 1e-1}\nlanguages: [de]")
    other = read("languages: [de]\ninner: {lr: 0.2}")
    assert digest_of(one) == digest_of(same)
    assert digest_of(one) != digest_of(other)


def test_an_input_path_enters_the_digest_by_content(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Source:
        path: InputPath

    first, second = tmp_path / "a.tsv", tmp_path / "b.tsv"
    first.write_text("x")
    second.write_text("x")
    assert digest_of(Source(path=InputPath(first))) == digest_of(Source(path=InputPath(second)))
    second.write_text("y")
    assert digest_of(Source(path=InputPath(first))) != digest_of(Source(path=InputPath(second)))


def test_a_path_or_id_enters_the_digest_by_content_where_it_is_a_path(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Source:
        model: InputPathOrId

    assert canonical(parse(Source, {"model": "org/model"}), for_digest=True) == {"model": "org/model"}
    (tmp_path / "model").write_text("weights")
    assert canonical(parse(Source, {"model": str(tmp_path / "model")}), for_digest=True)["model"].startswith("sha256:")


def test_a_plug_in_is_found_by_module_name_and_its_settings_are_checked(tmp_path, monkeypatch):
    package = tmp_path / "shapes"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "circle.py").write_text(
        "from dataclasses import dataclass\n@dataclass(frozen=True, kw_only=True)\nclass Config:\n    radius: float\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    @dataclass(frozen=True, kw_only=True)
    class Drawing:
        shape: Annotated[Plugin, "shapes"]

    drawing = parse(Drawing, {"shape": {"type": "circle", "radius": 2}})
    assert drawing.shape.config.radius == 2.0
    assert drawing.shape.load().__name__ == "shapes.circle"
    assert canonical(drawing) == {"shape": {"type": "circle", "radius": 2.0}}
    assert parse(Drawing, {"shape": {"type": "shapes.circle", "radius": 2}}).shape.config == drawing.shape.config
    with pytest.raises(ConfigError, match=r"^shape\.type: no module shapes\.cirle; did you mean 'circle'\?$"):
        parse(Drawing, {"shape": {"type": "cirle"}})
    with pytest.raises(ConfigError, match=r"^shape\.radius: is required$"):
        parse(Drawing, {"shape": "circle"})


def test_canonical_form_parses_back_to_the_same_config():
    config = read("languages: [deu_Latn]\ninner: {lr: 3e-4}\nweights: {a: 1}\nsteps: 7")
    assert parse(Outer, canonical(config)) == config


def test_checks_of_the_dataclass_itself_name_the_full_path():
    @dataclass(frozen=True, kw_only=True)
    class Checked:
        share: float

        def __post_init__(self):
            if self.share > 1:
                raise ConfigError("share", "must be at most 1")

    @dataclass(frozen=True, kw_only=True)
    class Holder:
        part: Checked

    with pytest.raises(ConfigError, match=r"^part\.share: must be at most 1$"):
        parse(Holder, {"part": {"share": 2}})
