"""Metrics against seqeval, scikit-learn and sacrebleu, and against values worked by hand."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xbridge.ops.spans import lenient_spans
from xbridge.tasks import metrics

PANX = Path(__file__).parents[3] / "shared" / "data" / "panx"
TAG_SETS = {
    "bio": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
    "inside only": ["O", "I-PER", "I-LOC"],
    "hyphenated types": ["O", "B-media-class", "I-media-class", "I-media"],
    "part of speech": ["NOUN", "VERB", "CCONJ", "SCONJ", "X", "INTJ", "."],
    "bioes": ["O", "B-A", "I-A", "E-A", "S-A", "E-B", "B-B"],
}


def pairs(tags):
    """Gold and predicted tags of a few sentences, equally long."""
    sentence = st.lists(st.tuples(st.sampled_from(tags), st.sampled_from(tags)), min_size=1, max_size=8)
    return st.lists(sentence, min_size=1, max_size=4).map(
        lambda data: ([[g for g, _ in s] for s in data], [[p for _, p in s] for s in data])
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tags", TAG_SETS.values(), ids=TAG_SETS)
def test_span_f1_is_that_of_seqeval(tags):
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(pairs(tags))
    def check(data):
        gold, predicted = data
        theirs = precision_recall_fscore_support(gold, predicted, average="micro", zero_division=0)
        assert metrics.span_f1(gold, predicted) == pytest.approx(theirs[:3], abs=1e-12)

    check()


@pytest.mark.filterwarnings("ignore")
def test_strict_span_f1_is_that_of_seqeval_in_strict_iob2():
    from seqeval.metrics.v1 import precision_recall_fscore_support
    from seqeval.scheme import IOB2

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(pairs(TAG_SETS["bio"]))
    def check(data):
        gold, predicted = data
        theirs = precision_recall_fscore_support(gold, predicted, average="micro", zero_division=0, scheme=IOB2)
        assert metrics.span_f1_strict(gold, predicted) == pytest.approx(theirs[:3], abs=1e-12)

    check()


def test_inside_tags_alone_count_in_the_official_form_only():
    gold, predicted = [["B-PER", "I-PER", "O"]], [["I-PER", "I-PER", "O"]]
    assert metrics.span_f1(gold, predicted).f1 == 1.0
    assert metrics.span_f1_strict(gold, predicted) == (0.0, 0.0, 0.0)


def test_span_f1_by_hand():
    gold = [["B-A", "I-A", "O", "B-B"], ["B-A"]]
    predicted = [["B-A", "O", "O", "B-B"], ["B-A"]]  # 2 of 3 spans right on both sides
    assert metrics.span_f1_strict(gold, predicted) == pytest.approx((2 / 3, 2 / 3, 2 / 3))


def test_a_span_does_not_run_into_the_next_sentence():
    assert lenient_spans([["B-A"], ["I-A"]]) == [("A", 0, 0), ("A", 2, 2)]


def test_macro_accuracy_is_the_balanced_accuracy_of_sklearn():
    from sklearn.metrics import balanced_accuracy_score

    gold = ["a", "a", "a", "b", "c", "c"]
    predicted = ["a", "a", "b", "b", "a", "c"]
    assert metrics.macro_accuracy(gold, predicted) == pytest.approx(balanced_accuracy_score(gold, predicted))


def test_macro_accuracy_averages_over_gold_classes_only():
    assert metrics.macro_accuracy(["a", "a", "b"], ["a", "z", "b"]) == pytest.approx((0.5 + 1.0) / 2)


def test_tag_accuracy_counts_words():
    assert metrics.tag_accuracy([["O", "O"], ["B-A"]], [["O", "B-A"], ["B-A"]]) == pytest.approx(2 / 3)


def test_constant_predictor_breaks_ties_by_the_alphabet():
    assert metrics.most_frequent({"b": 3, "a": 3, "c": 1}) == "a"


def test_retrieval_accuracy_is_the_mean_of_both_directions():
    assert metrics.retrieval_accuracy([True, False, False, False], [True, True, False, False]) == pytest.approx(3 / 8)


def panx(lang, sentences):
    """The first tag sequences of a PAN-X development set."""
    text = gzip.decompress((PANX / f"dev-{lang}.tsv.gz").read_bytes()).decode("utf-8")
    blocks = [block.split("\n") for block in text.strip().split("\n\n")[:sentences]]
    return [[line.split("\t")[-1] for line in block if line] for block in blocks]


@pytest.mark.skipif(not PANX.is_dir(), reason="needs the PAN-X files of ../shared/data")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lang", ["de", "zh", "ar"])
def test_span_f1_of_damaged_panx_tags_is_that_of_seqeval(lang):
    from seqeval.metrics import f1_score
    from seqeval.scheme import IOB2

    gold = panx(lang, 400)
    shifted = [[*tags[1:], "O"] if i % 3 == 0 else tags for i, tags in enumerate(gold)]
    predicted = [[tag.replace("B-", "I-") if i % 2 else tag for i, tag in enumerate(tags)] for tags in shifted]
    lenient, strict = metrics.span_f1(gold, predicted).f1, metrics.span_f1_strict(gold, predicted).f1
    assert lenient == pytest.approx(f1_score(gold, predicted), abs=1e-12)
    assert strict == pytest.approx(f1_score(gold, predicted, mode="strict", scheme=IOB2), abs=1e-12)
    assert strict < lenient < 1
