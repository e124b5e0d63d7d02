"""Greedy answers of a causal language model, many questions at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from amu_fast.audit.predict import eval_mode
from amu_fast.errors import DataError
from amu_fast.experiments.language.tokens import Pair, encode_pair, end_of, padding_of


def generate_answers(
    model: Any, rows: Sequence[Pair], tokenizer: Any, *, max_new_tokens: int = 64, batch_size: int = 32
) -> list[str]:
    """The model's most probable continuation of each question, token by token until the end token.

    Questions are padded on the left, so that all continuations begin at one position; the result does not depend on
    what else is in a batch, up to rounding.

    Args:
        model: With transformers' `generate`.
        rows: n of them; their answers are not looked at.
        tokenizer: As for `encode_pairs`, with `decode`.
        max_new_tokens: Where an answer is cut off.
        batch_size: Questions a call.

    Returns:
        n texts, without special tokens.
    """
    if max_new_tokens < 1 or batch_size < 1:
        raise DataError(f"max_new_tokens and batch_size must be >= 1, got {max_new_tokens} and {batch_size}")
    prompts = [encode_pair(row.question, "", tokenizer)[0] for row in rows]
    order = sorted(range(len(prompts)), key=lambda k: len(prompts[k]))
    answers = [""] * len(prompts)
    with eval_mode(model), torch.no_grad():
        for at in range(0, len(order), batch_size):
            chosen = order[at : at + batch_size]
            for k, ids in zip(
                chosen, _continue(model, [prompts[k] for k in chosen], tokenizer, max_new_tokens), strict=True
            ):
                answers[k] = tokenizer.decode(ids, skip_special_tokens=True).strip()
    return answers


def _continue(model: Any, prompts: Sequence[Sequence[int]], tokenizer: Any, max_new_tokens: int) -> list[list[int]]:
    width, filler, end = max(map(len, prompts)), padding_of(tokenizer), end_of(tokenizer)
    device = next(model.parameters()).device
    ids = torch.tensor([[filler] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    whole: Tensor = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=filler,
        eos_token_id=end,
    )
    continued = whole[:, width:].tolist()
    return [row[: row.index(end)] if end in row else row for row in continued]
