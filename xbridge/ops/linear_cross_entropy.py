"""Cross-entropy of a linear layer's logits, summed, without keeping the logits.

With z = h W^T + b, the loss of one row with target y is  lse(z) - c z_y - u sum_v z_v  (natural logarithm), where the
smoothed target puts u on every word and c more on y:

    Hugging Face   u = e / V          c = 1 - e             (Szegedy et al., 2016, section 7)
    fairseq        u = e / (V - 1)    c = 1 - e - u

The gradient with respect to z is softmax(z) - u - c onehot(y). Rows are taken in chunks: each chunk's logits give
their gradient at once and it is multiplied into the gradients of h and W, so that memory holds one chunk of
logits where plain autograd holds three copies of all of them.
"""

from typing import Any, Literal

import torch
from torch import Tensor

Smoothing = Literal["huggingface", "fairseq"]
CHUNK_BYTES = {"cpu": 4 << 20, "cuda": 512 << 20}
"""Bytes of float32 logits in a chunk: on a CPU about what stays in a core's cache between the passes over it, on a GPU
enough rows that adding each chunk's share to the weight's gradient costs little beside the products."""


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    label_smoothing: float = 0.0,
    convention: Smoothing = "huggingface",
    ignore_index: int = -100,
    chunk_rows: int | None = None,
) -> Tensor:
    """Sum of the cross-entropies of all rows whose label is not `ignore_index`; differentiable once.

    hidden: (..., d); weight: (V, d); labels: (...) of 0..V-1 or `ignore_index`; bias: (V,). Returns a float32 scalar
    (float64 for float64 input); sums and the gradients of weight and bias are accumulated in that type whatever the
    input's. Under autocast the products are made in its type, as a linear layer's are.
    """
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        hidden = hidden.to(torch.get_autocast_dtype(kind))
    hidden, labels = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    rows = (labels != ignore_index).nonzero().squeeze(1)
    hidden, labels = hidden.index_select(0, rows), labels.index_select(0, rows)
    vocabulary = weight.shape[0]
    if convention == "huggingface":
        uniform, extra = label_smoothing / vocabulary, 1 - label_smoothing
    else:
        uniform = label_smoothing / (vocabulary - 1)
        extra = 1 - label_smoothing - uniform
    rows_per_chunk = chunk_rows or max(CHUNK_BYTES.get(kind, CHUNK_BYTES["cuda"]) // (4 * vocabulary), 64)
    total: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, labels, bias, uniform, extra, rows_per_chunk
    )
    return total


class _LinearCrossEntropy(torch.autograd.Function):
    """Loss and all gradients in the forward pass; the backward pass only scales them, in place."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        bias: Tensor | None,
        uniform: float,
        extra: float,
        chunk_rows: int,
    ) -> Tensor:
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=wide, device=hidden.device)
        needs_hidden, needs_weight, _, needs_bias = ctx.needs_input_grad[:4]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if needs_weight else None
        grad_bias = torch.zeros(weight.shape[0], dtype=wide, device=weight.device) if needs_bias else None
        with torch.autocast(hidden.device.type, enabled=False):
            multiplied = weight.to(hidden.dtype)  # under autocast the hidden states are narrower than the weight
            rows = min(chunk_rows, hidden.shape[0])
            buffer = torch.empty(rows, weight.shape[0], dtype=wide, device=hidden.device)
            for start in range(0, hidden.shape[0], chunk_rows):
                chunk = slice(start, start + chunk_rows)
                logits = buffer[: min(chunk_rows, hidden.shape[0] - start)]
                _multiply_into(logits, hidden[chunk], multiplied.T)
                if bias is not None:
                    logits += bias
                loss, gradient = _loss_and_gradient(logits, labels[chunk], uniform, extra)
                total += loss
                narrow = gradient.to(hidden.dtype)
                if grad_hidden is not None:
                    torch.mm(narrow, multiplied, out=grad_hidden[chunk])
                if grad_weight is not None:
                    _add_product(grad_weight, narrow.T, hidden[chunk])
                if grad_bias is not None:
                    grad_bias += gradient.sum(0)
        ctx.gradients = grad_hidden, grad_weight, grad_bias
        ctx.weight_dtype, ctx.bias_dtype = weight.dtype, None if bias is None else bias.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("linear_cross_entropy: a second backward pass; the first has used up the gradients")
        grad_hidden, grad_weight, grad_bias = ctx.gradients
        ctx.gradients = None  # so that the parameter takes the weight's gradient as it is, without a copy
        if grad_hidden is not None:
            grad_hidden.mul_(grad.to(grad_hidden.dtype))
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(grad).to(ctx.weight_dtype)
        if grad_bias is not None:
            grad_bias = grad_bias.mul_(grad).to(ctx.bias_dtype)
        return grad_hidden, grad_weight, None, grad_bias, None, None, None


def _multiply_into(out: Tensor, left: Tensor, right: Tensor) -> None:
    """left @ right in the type of `out`, which may be wider."""
    if out.dtype == left.dtype:
        torch.mm(left, right, out=out)
    elif _keeps_wide_sums(left):
        torch.mm(left, right, out_dtype=out.dtype, out=out)
    else:
        out.copy_(left @ right)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to `total`, whose type may be wider."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    elif _keeps_wide_sums(left):
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total += left @ right


def _keeps_wide_sums(narrow: Tensor) -> bool:
    """Whether a product of 16-bit matrices can be had with the 32-bit sums it is made from."""
    return narrow.is_cuda and torch.version.hip is None


def _loss_and_gradient(logits: Tensor, labels: Tensor, uniform: float, extra: float) -> tuple[Tensor, Tensor]:
    """Summed loss of a chunk's logits (n, V), and their gradient, which takes their place."""
    targets = labels.unsqueeze(1)
    top, of_targets = logits.amax(1, keepdim=True), logits.gather(1, targets)
    of_all = logits.sum() if uniform else None
    gradient = torch.softmax(logits, 1, out=logits)
    lse = top - gradient.amax(1, keepdim=True).log()  # the largest probability is at least 1 / V: its log is exact
    loss = (lse - extra * of_targets).sum()
    if of_all is not None:
        loss -= uniform * of_all
        gradient.sub_(uniform)
    gradient.scatter_add_(1, targets, torch.full_like(lse, -extra))
    return loss, gradient
