"""Translations by greedy or beam search, shared out over the ranks of a run.

Sentences of all directions are sorted by length and cut into batches that fill a token budget. The batches do not
depend on the number of ranks, so that any number finds the same translations; rank r takes batches r, r + world_size
and so on. Under ZeRO 3 every forward pass gathers parameters from all ranks: a rank without a batch in the last round
translates the last one too and drops it, and transformers' `synced_gpus` lets a rank that is done with its batch go
on until the slowest is. The translations are gathered by the number of their sentence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from xbridge.core.errors import UserError
from xbridge.data.tokens import encode
from xbridge.models.encoding import encode_source
from xbridge.models.families import Conventions

if TYPE_CHECKING:
    from torch import Tensor, nn


class Request(NamedTuple):
    """A sentence to translate, by internal language codes."""

    text: str
    source_lang: str
    target_lang: str


@dataclass(frozen=True, kw_only=True)
class Search:
    """How translations are found."""

    max_new_tokens: int
    """Longest translation in tokens, `</s>` counted; source texts are cut there too."""
    num_beams: int = 1
    """Beams of the search; 1 = greedy."""
    batch_tokens: int = 8192
    """Tokens per forward pass: rows x beams x (longest source + longest translation); one row at least."""


def translate(
    model: "nn.Module",
    tokenizer: Any,
    conventions: Conventions,
    requests: Sequence[Request],
    search: Search,
    *,
    between: Callable[[], object] | None = None,
) -> list[str]:
    """Translations in the order of `requests`, the same on every rank of the process group, if there is one.

    All ranks must call it together. `between` is called before each batch, equally often on all ranks, and may raise.
    Errors: `UserError` for a model without a decoder of its own, or a language that the vocabulary does not have.
    """
    import torch

    whole: Any = model
    if not whole.config.is_encoder_decoder:
        raise UserError(
            f"a model of type {whole.config.model_type!r} has no encoder and decoder, so it cannot translate"
        )
    rank, world_size = rank_and_size()
    in_step = is_sharded(model)
    lengths = encode(tokenizer, [request.text for request in requests]).lengths.clip(max=search.max_new_tokens)
    batches = batches_of((lengths + conventions.num_around()).tolist(), search)
    found = torch.zeros(len(requests), search.max_new_tokens, dtype=torch.int64)
    was_training = model.training
    model.eval()
    try:
        for first in range(0, len(batches), world_size):
            if between is not None:
                between()
            has_batch = first + rank < len(batches)
            if not has_batch and not in_step:
                break
            chosen = batches[first + rank if has_batch else -1]
            output = _search(whole, tokenizer, conventions, [requests[i] for i in chosen], search, in_step=in_step)
            if has_batch:
                found[chosen] = conventions.pad
                found[chosen, : output.shape[1]] = output.cpu()
    finally:
        model.train(was_training)
    return [text.strip() for text in tokenizer.batch_decode(_sum(found, whole), skip_special_tokens=True)]


def rank_and_size() -> tuple[int, int]:
    """Rank and number of ranks of the process group; (0, 1) without one."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def is_sharded(model: "nn.Module") -> bool:
    """True under ZeRO 3: every forward pass is then one of all ranks together."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def first_rank_says(work: Callable[[], Any]) -> Any:
    """What `work` returns on rank 0, on every rank; its `UserError` too, so that no rank waits for one that left."""
    import torch.distributed as dist

    rank, world_size = rank_and_size()
    if world_size == 1:
        return work()
    said: list[Any] = [None, None]
    if rank == 0:
        try:
            said[0] = work()
        except UserError as error:
            said[1] = str(error)
    dist.broadcast_object_list(said)
    if said[1] is not None:
        raise UserError(said[1])
    return said[0]


def batches_of(lengths: Sequence[int], search: Search) -> list[list[int]]:
    """Sentence numbers by batch, longest sources first, so that a budget that is too large fails at once."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches = []
    while order:
        tokens = (lengths[order[0]] + search.max_new_tokens) * search.num_beams
        rows = max(1, search.batch_tokens // tokens)
        batches.append(order[:rows])
        order = order[rows:]
    return batches


def _search(
    model: Any,
    tokenizer: Any,
    conventions: Conventions,
    requests: Sequence[Request],
    search: Search,
    *,
    in_step: bool,
) -> "Tensor":
    """Ids of one batch of translations after the given prefix: (batch, at most max_new_tokens)."""
    import torch

    device = model.get_input_embeddings().weight.device
    texts, languages, targets = (list(column) for column in zip(*requests, strict=True))
    sources = encode_source(texts, languages, tokenizer, conventions, max_tokens=search.max_new_tokens, targets=targets)
    prefixes = torch.tensor([conventions.target(request.target_lang)[0] for request in requests], device=device)
    with torch.no_grad():  # not inference_mode: ZeRO 3 writes the gathered parameters in place
        output: Tensor = model.generate(
            **{name: tensor.to(device) for name, tensor in sources.items()},
            decoder_input_ids=prefixes,
            decoder_start_token_id=prefixes[:, 0].tolist(),  # generate puts its own start before any other
            max_new_tokens=search.max_new_tokens,
            num_beams=search.num_beams,
            do_sample=False,
            forced_bos_token_id=None,
            forced_eos_token_id=None,
            eos_token_id=conventions.eos,
            pad_token_id=conventions.pad,
            synced_gpus=in_step,
        )
    return output[:, prefixes.shape[1] :]


def _sum(rows: "Tensor", model: Any) -> "Tensor":
    """Every row is filled on one rank and zero on the others: their sum is the whole."""
    import torch.distributed as dist

    if rank_and_size()[1] == 1:
        return rows
    rows = rows.to(model.get_input_embeddings().weight.device)  # NCCL knows no other
    dist.all_reduce(rows)
    return rows
