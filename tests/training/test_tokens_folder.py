"""Where a training keeps its tokens."""

from xbridge.training.start import tokens_folder


def test_trainings_of_a_study_share_one_folder_of_tokens(tmp_path, monkeypatch):
    monkeypatch.delenv("XBRIDGE_TOKENS", raising=False)
    assert tokens_folder(tmp_path / "mine" / "train" / "mt-0123") == tmp_path / "mine" / "tokens"
    assert tokens_folder(tmp_path / "alone") == tmp_path / "tokens"
    monkeypatch.setenv("XBRIDGE_TOKENS", "/scratch/tokens")
    assert str(tokens_folder(tmp_path / "alone")) == "/scratch/tokens"
