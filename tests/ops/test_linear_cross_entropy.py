"""The chunked loss against PyTorch's cross-entropy in float64, and against fairseq's formula written out."""

import pytest
import torch
import torch.nn.functional as F

from xbridge.ops.linear_cross_entropy import linear_cross_entropy


def inputs(dtype=torch.float64, *, rows=37, dim=8, vocabulary=23):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, dim, generator=generator, dtype=dtype)
    weight = torch.randn(vocabulary, dim, generator=generator, dtype=dtype)
    labels = torch.randint(0, vocabulary, (rows,), generator=generator)
    labels[::5] = -100
    return hidden.requires_grad_(), weight.requires_grad_(), labels


def gradients(loss, *tensors):
    return torch.autograd.grad(loss * 0.37, tensors)  # a factor from outside, as the trainer applies


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
def test_loss_and_gradients_equal_pytorch_in_float64(smoothing, chunk_rows):
    hidden, weight, labels = inputs()
    plain = F.cross_entropy(hidden @ weight.T, labels, reduction="sum", label_smoothing=smoothing)
    ours = linear_cross_entropy(hidden, weight, labels, label_smoothing=smoothing, chunk_rows=chunk_rows)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    for got, expected in zip(gradients(ours, hidden, weight), gradients(plain, hidden, weight), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)


def test_float32_agrees_with_the_float64_reference_to_its_precision():
    hidden, weight, labels = inputs(torch.float32, rows=200, dim=64, vocabulary=500)
    ours = linear_cross_entropy(hidden, weight, labels, label_smoothing=0.1, chunk_rows=64)
    wide_hidden, wide_weight = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    plain = F.cross_entropy(wide_hidden @ wide_weight.T, labels, reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(ours.double(), plain, rtol=1e-6, atol=0)
    expected = gradients(plain, wide_hidden, wide_weight)
    for got, wide in zip(gradients(ours, hidden, weight), expected, strict=True):  # sums of 200 terms of about 1
        torch.testing.assert_close(got.double(), wide, rtol=1e-4, atol=1e-4)


def test_fairseq_smoothing_gives_the_target_less_and_every_other_word_more():
    hidden, weight, labels = inputs()
    epsilon, vocabulary = 0.1, weight.shape[0]
    log_p = (hidden @ weight.T).log_softmax(1)[labels != -100]
    nll = -log_p.gather(1, labels[labels != -100, None]).sum()
    each = epsilon / (vocabulary - 1)
    expected = (1 - epsilon - each) * nll + each * -log_p.sum()  # label_smoothed_nll_loss of fairseq
    ours = linear_cross_entropy(hidden, weight, labels, label_smoothing=epsilon, convention="fairseq")
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_bias_enters_the_logits_and_gets_its_gradient(smoothing):
    hidden, weight, labels = inputs()
    bias = torch.linspace(-3, 3, weight.shape[0], dtype=torch.float64, requires_grad=True)
    plain = F.cross_entropy(hidden @ weight.T + bias, labels, reduction="sum", label_smoothing=smoothing)
    ours = linear_cross_entropy(hidden, weight, labels, bias=bias, label_smoothing=smoothing, chunk_rows=7)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    of = (hidden, weight, bias)
    for got, expected in zip(gradients(ours, *of), gradients(plain, *of), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)


def test_rows_without_a_label_get_no_gradient():
    hidden, weight, labels = inputs()
    (grad,) = torch.autograd.grad(linear_cross_entropy(hidden, weight, labels), hidden)
    assert torch.equal(grad[::5], torch.zeros_like(grad[::5]))
    assert (grad[1:5].abs().sum(1) > 0).all()


def test_no_labels_at_all_is_a_loss_of_zero_with_zero_gradients():
    hidden, weight, labels = inputs()
    loss = linear_cross_entropy(hidden, weight, torch.full_like(labels, -100))
    assert loss == 0
    assert all((grad == 0).all() for grad in gradients(loss, hidden, weight))


def test_logits_beyond_the_range_of_exp_stay_finite():
    hidden, weight, labels = inputs(torch.float32)
    loss = linear_cross_entropy(hidden * 1e4, weight, labels)
    plain = F.cross_entropy(hidden.double() * 1e4 @ weight.double().T, labels, reduction="sum")
    torch.testing.assert_close(loss.double(), plain, rtol=1e-5, atol=0)


def test_under_bfloat16_autocast_the_loss_is_float32_and_near_the_full_one():
    hidden, weight, labels = inputs(torch.float32)
    full = linear_cross_entropy(hidden, weight, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = linear_cross_entropy(hidden.bfloat16(), weight, labels)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, full, rtol=2e-2, atol=0)  # bfloat16 has 8 bits
    grad_hidden, grad_weight = torch.autograd.grad(narrow, (hidden, weight))
    assert grad_hidden.dtype == grad_weight.dtype == torch.float32


def test_under_autocast_wide_hidden_states_are_multiplied_in_its_type():
    hidden, weight, labels = inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        of_wide = linear_cross_entropy(hidden, weight, labels)
        of_narrow = linear_cross_entropy(hidden.bfloat16(), weight, labels)
    assert torch.equal(of_wide, of_narrow)
    assert torch.autograd.grad(of_wide, hidden)[0].dtype == torch.float32


@pytest.mark.parametrize("convention", ["huggingface", "fairseq"])
def test_bfloat16_inputs_give_their_float64_loss_and_gradients_to_bfloat16s_precision(convention):
    hidden, weight, labels = inputs(torch.float32, rows=120, dim=32, vocabulary=300)
    narrow = [tensor.detach().bfloat16().requires_grad_() for tensor in (hidden, weight)]
    wide = [tensor.detach().double().requires_grad_() for tensor in narrow]
    settings = {"label_smoothing": 0.1, "convention": convention, "chunk_rows": 16}
    loss, expected = (linear_cross_entropy(*tensors, labels, **settings) for tensors in (narrow, wide))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=2e-3, atol=0)  # logits of about 6 rounded to 8 bits
    pairs = zip(gradients(loss, *narrow), gradients(expected, *wide), strict=True)
    for got, true in pairs:
        assert got.dtype == torch.bfloat16
        assert (got.double() - true).norm() < 0.01 * true.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, where 16-bit products keep 32-bit sums")
def test_on_a_gpu_the_logits_are_not_rounded_to_16_bits():
    on_cpu = inputs(torch.float32, rows=200, dim=64, vocabulary=500)
    hidden, weight, labels = (tensor.detach().cuda() for tensor in on_cpu)
    hidden, weight = (tensor.bfloat16().requires_grad_() for tensor in (hidden, weight))
    loss = linear_cross_entropy(hidden, weight, labels)
    expected = linear_cross_entropy(hidden.double(), weight.double(), labels)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    for got, true in zip(gradients(loss, hidden, weight), gradients(expected, hidden, weight), strict=True):
        assert (got.double() - true.double()).norm() < 0.01 * true.double().norm()


def test_a_second_backward_pass_is_refused():
    hidden, weight, labels = inputs()
    loss = linear_cross_entropy(hidden, weight, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second backward"):
        loss.backward()
