"""The wheel source, on small wheels of the same layout: reading, cache, hashes, and no network."""

import json
import os
import subprocess
import sys

import pytest

from xbridge.core.config import digest_of, parse
from xbridge.core.errors import UserError
from xbridge.data.sources import _wheel, homeassistant

CATALOGUES = {
    "onboarding": {
        "en": {"area": {"kitchen": "Kitchen", "bedroom": "Bedroom"}},
        "de": {"area": {"kitchen": "Küche"}},
        "zh-Hans": {"area": {"kitchen": "厨房"}},
        "sensor.de": {"area": {"bedroom": "from an old per-platform file"}},
    },
    "light": {"en": {"title": "Light", "number": 3, "empty": {}}, "nb": {"title": "Lys"}},
    "orphan": {"de": {"title": "Ohne Englisch"}},
}


def config(path, sha256, **more):
    return parse(homeassistant.Config, {"version": "1.2.3", "sha256": sha256, "wheel": str(path), **more})


def read(settings, *languages):
    return {entry.key: entry.texts for entry in homeassistant.read(settings, languages, languages[0])}


def test_messages_are_aligned_by_component_and_key(make_wheel):
    found = read(config(*make_wheel(CATALOGUES)), "eng_Latn", "deu_Latn", "nob_Latn", "zho_Hans")
    assert found == {
        "light/title": {"eng_Latn": "Light", "nob_Latn": "Lys"},
        "onboarding/area/bedroom": {"eng_Latn": "Bedroom"},
        "onboarding/area/kitchen": {"eng_Latn": "Kitchen", "deu_Latn": "Küche", "zho_Hans": "厨房"},
    }


def test_entries_do_not_depend_on_the_order_of_the_archive(make_wheel, tmp_path):
    (tmp_path / "other").mkdir()
    backwards = {name: dict(reversed(by.items())) for name, by in reversed(CATALOGUES.items())}
    first, second = make_wheel(CATALOGUES), make_wheel(backwards, tmp_path / "other")
    languages = ("eng_Latn", "deu_Latn", "nob_Latn")
    found = [list(homeassistant.read(config(*wheel), languages, "eng_Latn")) for wheel in (first, second)]
    assert [e.key for e in found[0]] == [e.key for e in found[1]]


def test_the_path_of_the_wheel_does_not_change_the_digest(make_wheel):
    path, sha256 = make_wheel(CATALOGUES)
    assert digest_of(config(path, sha256)) == digest_of(config("elsewhere.whl", sha256))
    assert digest_of(config(path, sha256)) != digest_of(config(path, "0" * 64))


def test_a_changed_or_truncated_wheel_is_refused_with_both_hashes_and_kept(make_wheel):
    path, sha256 = make_wheel(CATALOGUES)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError) as caught:
        homeassistant.locate(config(path, sha256))
    message = str(caught.value)
    assert message.startswith(f"{path}: sha256 is ")
    assert f"expected {sha256}" in message
    assert "truncated or changed" in message
    assert path.exists()


def test_a_wheel_with_damaged_json_is_an_error_with_the_member(make_wheel):
    path, sha256 = make_wheel({"light": {"en": '{"title": ', "de": "{}"}})
    with pytest.raises(UserError, match=r"components/light/translations/en\.json is not valid JSON"):
        read(config(path, sha256), "eng_Latn", "deu_Latn")


def test_a_file_that_is_no_archive_is_an_error(make_wheel, tmp_path):
    import hashlib

    path = tmp_path / "x.whl"
    path.write_bytes(b"not a zip")
    with pytest.raises(UserError, match="not a readable wheel"):
        read(config(path, hashlib.sha256(b"not a zip").hexdigest()), "eng_Latn", "deu_Latn")


def test_the_cache_is_xbridge_cache_then_xdg_then_home(monkeypatch, tmp_path):
    monkeypatch.setenv("XBRIDGE_CACHE", str(tmp_path / "own"))
    assert _wheel.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("XBRIDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert _wheel.cache_folder() == tmp_path / "xdg" / "xbridge"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _wheel.cache_folder() == tmp_path / ".cache" / "xbridge"


def index_folder(monkeypatch, tmp_path, folder):
    """Let pip know no index but a local folder, through the settings that a user would have."""
    monkeypatch.setenv("XBRIDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


def test_the_wheel_is_fetched_once_through_pip_and_checked(monkeypatch, make_wheel, tmp_path):
    (tmp_path / "index").mkdir()
    path, sha256 = make_wheel(CATALOGUES, tmp_path / "index")
    index_folder(monkeypatch, tmp_path, tmp_path / "index")
    fetched = homeassistant.locate(parse(homeassistant.Config, {"version": "1.2.3", "sha256": sha256}))
    assert fetched == tmp_path / "cache" / path.name
    assert fetched.read_bytes() == path.read_bytes()
    path.unlink()
    assert homeassistant.locate(parse(homeassistant.Config, {"version": "1.2.3", "sha256": sha256})) == fetched


def test_a_wrong_file_from_the_index_never_enters_the_cache(monkeypatch, make_wheel, tmp_path):
    (tmp_path / "index").mkdir()
    make_wheel(CATALOGUES, tmp_path / "index")
    index_folder(monkeypatch, tmp_path, tmp_path / "index")
    with pytest.raises(UserError, match="the package index served another file"):
        homeassistant.locate(parse(homeassistant.Config, {"version": "1.2.3", "sha256": "0" * 64}))
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_a_network_the_error_says_what_to_fetch_and_where_to_put_it(monkeypatch, tmp_path):
    index_folder(monkeypatch, tmp_path, tmp_path)
    with pytest.raises(UserError) as caught:
        homeassistant.locate(homeassistant.Config())
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "pip could not download homeassistant==2026.11.0",
        "homeassistant-2026.11.0-py3-none-any.whl",
        homeassistant.Config().sha256,
        str(tmp_path / "cache" / "homeassistant-2026.11.0-py3-none-any.whl"),
        "wheel:",
    ):
        assert part in message
    assert list((tmp_path / "cache").iterdir()) == []


def test_pip_is_asked_as_documented(monkeypatch, tmp_path):
    asked = []

    def run(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, "", "")

    monkeypatch.setenv("XBRIDGE_CACHE", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UserError, match="no message"):
        homeassistant.locate(homeassistant.Config())
    (command,) = asked
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "homeassistant==2026.11.0"} <= set(command)
    assert command[command.index("--python-version") + 1] == "3.14.2"


def test_the_card_names_version_licence_and_hash():
    card = homeassistant.describe(homeassistant.Config())
    assert (card["version"], card["licence"]) == ("2026.11.0", "Apache-2.0")
    assert json.dumps(card)
