"""What an offline machine needs: collected here, named where it is missing, checked there."""

import json

import pytest
from toy_study import write_toy_files, write_toy_study

from xbridge.cli import main
from xbridge.core.config import load_yaml
from xbridge.core.errors import UserError
from xbridge.study import bundle
from xbridge.study.config import load_study
from xbridge.study.needs import needs_of
from xbridge.study.plan import Plan

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def plan_of(folder, *overrides):
    write_toy_files(folder)
    study, data = load_study(write_toy_study(folder, folder), overrides)
    return Plan(study, data, folder / "runs" / study.study)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """A cache as the hub's library leaves it, with one model: blobs, and a snapshot of links to them."""
    import huggingface_hub.constants

    cache = tmp_path / "hub"
    model = cache / "models--org--tiny"
    blobs, snapshot = model / "blobs", model / "snapshots" / COMMIT
    for folder in (blobs, snapshot, model / "refs"):
        folder.mkdir(parents=True)
    (model / "refs" / "main").write_text(COMMIT)
    for name in ("config.json", "model.safetensors", "pytorch_model.bin"):
        (blobs / name).write_text(f"content of {name}")
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return cache


def test_a_bundle_holds_the_files_and_a_study_that_reads_them_there(tmp_path, monkeypatch):
    plan = plan_of(tmp_path)
    out = tmp_path / "bundle"
    count = bundle.make(plan, out)
    assert bundle.check(out) == count
    data = load_yaml(out / "study.yaml")
    assert data["corpus"]["sources"][0]["path"].startswith("files/")
    assert (out / data["corpus"]["sources"][0]["path"]).read_bytes() == (tmp_path / "bitext.tsv").read_bytes()
    assert "numpy==" in (out / "requirements.txt").read_text()
    monkeypatch.chdir(out)
    study, moved = load_study(out / "study.yaml")
    there = Plan(study, moved, tmp_path / "runs" / "toy")
    assert digests(there) == digests(plan)


def test_spbleus_pieces_are_named_where_they_are_missing_and_taken_along_where_they_are_there(
    tmp_path, monkeypatch, capsys
):
    import sacrebleu.tokenizers.tokenizer_spm as spm

    monkeypatch.setattr(spm, "SACREBLEU_DIR", str(tmp_path / "home"))
    plan = plan_of(tmp_path, "train.translation_scores.metrics=[spbleu]", "train.validate_every=10",
                   "train.translation_scores.every=10")  # fmt: skip
    with pytest.raises(UserError, match=r"fetch it with: python -c .import sacrebleu"):
        bundle.make(plan, tmp_path / "bundle")
    pieces = next(need for need in needs_of(plan) if need.kind == "pieces")
    (tmp_path / "home" / "models").mkdir(parents=True)
    (tmp_path / "home" / "models" / pieces.name).write_bytes(b"pieces")
    bundle.make(plan, tmp_path / "bundle")
    assert (tmp_path / "bundle" / "sacrebleu" / "models" / pieces.name).read_bytes() == b"pieces"
    assert main(["bundle", "check", str(tmp_path / "bundle")]) == 0
    assert "SACREBLEU=sacrebleu XBRIDGE_OFFLINE=1 xbridge study run" in capsys.readouterr().out


def digests(plan):
    return {node.id: node.artifact.digest for node in plan.nodes.values()}


PRETRAINED = ("base.scratch=null", "base.pretrained={model: org/tiny}", "base.budget.amount=0")


def test_a_model_comes_from_the_hub_s_cache_as_files_and_without_pickles(tmp_path, hub_cache):
    out = tmp_path / "bundle"
    bundle.make(plan_of(tmp_path, *PRETRAINED), out)
    place = load_yaml(out / "study.yaml")["base"]["pretrained"]["model"]
    assert sorted(file.name for file in (out / place).iterdir()) == ["config.json", "model.safetensors"]
    assert not any(file.is_symlink() for file in out.rglob("*"))


def test_a_model_with_pickled_weights_alone_is_refused(tmp_path, hub_cache):
    (hub_cache / "models--org--tiny" / "snapshots" / COMMIT / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no safetensors weights"):
        bundle.make(plan_of(tmp_path, *PRETRAINED), tmp_path / "bundle")


def test_what_is_missing_is_named_with_the_command_that_fetches_it(tmp_path, hub_cache, monkeypatch):
    monkeypatch.setenv("XBRIDGE_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "empty"))
    hub = "{type: hub, id: org/pairs, revision: abc, columns: {eng_Latn: en, deu_Latn: de, spa_Latn: es}}"
    plan = plan_of(
        tmp_path, *PRETRAINED, "base.pretrained.model=org/absent", "base.pretrained.revision=v1",
        f"corpus.sources=[homeassistant, {hub}]",
    )  # fmt: skip
    with pytest.raises(UserError) as error:
        bundle.make(plan, tmp_path / "bundle")
    message = str(error.value)
    assert "org/absent (fetch it with: hf download org/absent --revision v1)" in message
    assert "pip download --no-deps --only-binary=:all: --python-version 3.14.2" in message
    assert "datasets.load_dataset('org/pairs', None, split='train', revision='abc')" in message
    assert not (tmp_path / "bundle").exists()


def test_what_finished_stages_have_read_is_not_needed_again(tmp_path):
    plan = plan_of(tmp_path)
    names = {need.path.name for need in needs_of(plan)}
    corpus = plan.nodes["corpus/corpus"].artifact
    corpus.path.mkdir(parents=True)
    (corpus.path / "manifest.json").write_text(json.dumps({"digest": corpus.digest}))
    assert names == {"bitext.tsv", "labels.tsv"}
    assert {need.path.name for need in needs_of(plan)} == {"labels.tsv"}


def test_wheels_are_complete_or_the_first_missing_one_is_named(tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name, version in bundle.installed_requirements().items():
        if name != "numpy":
            (wheels / f"{name.replace('-', '_')}-{version}-py3-none-any.whl").write_text("")
    with pytest.raises(UserError, match=r"has no numpy .* pip download"):
        bundle.make(plan_of(tmp_path), tmp_path / "bundle", wheels=wheels)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda out, file: file.write_bytes(file.read_bytes()[:-1]), "truncated or changed"),
        (lambda out, file: file.unlink(), "missing; copy the bundle again"),
        (lambda out, file: (out / "study.yaml.py").write_text("x"), "is not in the bundle's manifest"),
        (lambda out, file: (out / "manifest.json").unlink(), "not all of it has arrived"),
        (lambda out, file: rename_in_manifest(out, "../outside"), "outside the bundle"),
        (lambda out, file: rename_in_manifest(out, "/etc/hostname"), "outside the bundle"),
        (lambda out, file: (file.rename(out.parent / "moved"), file.symlink_to(out.parent / "moved")), "outside"),
    ],
)
def test_a_bundle_that_arrived_otherwise_is_refused(tmp_path, spoil, message):
    out = tmp_path / "bundle"
    bundle.make(plan_of(tmp_path), out)
    spoil(out, next((out / "files").iterdir()))
    with pytest.raises(UserError, match=message):
        bundle.check(out)


def rename_in_manifest(out, name):
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"][name] = manifest["files"].pop("study.yaml")
    (out / "manifest.json").write_text(json.dumps(manifest))


def test_a_bundle_is_not_written_over_anything(tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine").write_text("x")
    with pytest.raises(UserError, match="is not empty"):
        bundle.make(plan_of(tmp_path), tmp_path / "bundle")
