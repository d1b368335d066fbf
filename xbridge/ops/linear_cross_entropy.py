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
CHUNK_BYTES = 4 << 20  # of float32 logits: about what stays in a core's cache between the passes over it


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
    input's.
    """
    hidden, labels = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    rows = (labels != ignore_index).nonzero().squeeze(1)
    hidden, labels = hidden.index_select(0, rows), labels.index_select(0, rows)
    vocabulary = weight.shape[0]
    if convention == "huggingface":
        uniform, extra = label_smoothing / vocabulary, 1 - label_smoothing
    else:
        uniform = label_smoothing / (vocabulary - 1)
        extra = 1 - label_smoothing - uniform
    rows_per_chunk = chunk_rows or max(CHUNK_BYTES // (4 * vocabulary), 64)
    total: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, labels, bias, uniform, extra, rows_per_chunk
    )
    return total


class _LinearCrossEntropy(torch.autograd.Function):
    """Loss and all gradients in the forward pass; the backward pass only scales them."""

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
                logits = (hidden[chunk] @ multiplied.T).to(wide)
                if bias is not None:
                    logits += bias
                gradient = buffer[: logits.shape[0]]
                total += _loss_and_gradient(logits, labels[chunk], uniform, extra, gradient)
                narrow = gradient.to(hidden.dtype)
                if grad_hidden is not None:
                    torch.mm(narrow, multiplied, out=grad_hidden[chunk])
                if grad_weight is not None and wide == hidden.dtype:
                    grad_weight.addmm_(narrow.T, hidden[chunk])
                elif grad_weight is not None:
                    grad_weight += narrow.T @ hidden[chunk]
                if grad_bias is not None:
                    grad_bias += gradient.sum(0)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.weight_dtype, ctx.bias_dtype = weight.dtype, None if bias is None else bias.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = grad_hidden * grad.to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = (grad_weight * grad).to(ctx.weight_dtype)
        if grad_bias is not None:
            grad_bias = (grad_bias * grad).to(ctx.bias_dtype)
        return grad_hidden, grad_weight, None, grad_bias, None, None, None


def _loss_and_gradient(logits: Tensor, labels: Tensor, uniform: float, extra: float, gradient: Tensor) -> Tensor:
    """Summed loss of a chunk's logits (n, V); their gradient goes into `gradient` (n, V)."""
    targets = labels.unsqueeze(1)
    top = logits.amax(1, keepdim=True)
    torch.softmax(logits, 1, out=gradient)
    lse = top - gradient.amax(1, keepdim=True).log()  # the largest probability is at least 1 / V: its log is exact
    loss = (lse - extra * logits.gather(1, targets)).sum()
    if uniform:
        loss -= uniform * logits.sum()
        gradient.sub_(uniform)
    gradient.scatter_add_(1, targets, torch.full_like(lse, -extra))
    return loss
