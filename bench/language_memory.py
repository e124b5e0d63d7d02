"""What the game adds to a step on a language model: peak memory, and time beyond its batch's forward and backward.

    python -m amu_fast.bench.language_memory --out FILE [--device cuda] [--smoke]

Every step sees the same tokens and ends with AdamW. "training" is the model's own cross-entropy; "game" scores all its
rows, half as members and half as non-members, both with gradient, and descends the auditor's payoff, which is the most
that an auditing batch can need; "objective" splits them into retain, forget and validation rows for `GameObjective`;
"dense scores" is the game with scores written by log_softmax. A step's peak is exact: on the CPU from the allocator's
events, every temporary inside operators included, on a GPU from the allocator's counter; what lives before the step
(weights, moments, rows) is added. "pass" is a forward and the backward of a constant logits' gradient: no loss at all.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from amu_fast.audit import Auditor, ModelOutputs, ScoreMap
from amu_fast.audit.language import eight_scores, sequence_log_likelihood, zlib_lengths
from amu_fast.bench.records import machine, run_number
from amu_fast.bench.timing import Times, clock_of, interleave
from amu_fast.experiments.language.models import tiny_llama
from amu_fast.report.writing import write_atomic
from amu_fast.unlearn.objectives import GameObjective, UnlearningBatch, mean_nll, outputs_of

#: Most that the game may add: to the peak of a training step, and to the time of its batch's forward and backward.
LIMIT = 0.05

Part = dict[str, Tensor]
Term = Callable[[], Any]


@dataclass(frozen=True)
class Size:
    """A Llama and its batch.

    Attributes:
        vocabulary, hidden, layers: of the model.
        rows, length: of the batch, every token counted but the first of a row.
        seconds: for timing, all cases together.
    """

    vocabulary: int = 32_000
    hidden: int = 256
    layers: int = 4
    rows: int = 8
    length: int = 128
    seconds: float = 60.0


SMOKE = Size(vocabulary=200, hidden=16, layers=1, rows=8, length=12, seconds=0.0)


def dense_scores(outputs: ModelOutputs) -> Tensor:
    """(n, 3): loss, min-k % and min-k %++ as they are usually written; every token counts."""
    log_p = outputs.logits[:, :-1].float().log_softmax(-1)
    p = log_p.exp()
    of_label = log_p.gather(-1, outputs.labels[:, 1:, None]).squeeze(-1)
    mean = (p * log_p).sum(-1)
    deviation = ((p * (log_p - mean.unsqueeze(-1)) ** 2).sum(-1) + 1e-6).sqrt()
    k = max(1, int(0.2 * of_label.shape[1]))
    lowest = [v.sort(-1).values[:, :k].mean(-1) for v in (of_label, (of_label - mean) / deviation)]
    return torch.stack([of_label.mean(-1), *lowest], -1)


class Steps:
    """The same rows under every loss; each term is one call that makes gradients.

    Args:
        size: Of model and batch.
        device: Where.
    """

    def __init__(self, size: Size, device: torch.device) -> None:
        torch.manual_seed(0)
        self.size, self.device = size, device
        self.model: nn.Module = tiny_llama(size.vocabulary, size.hidden, size.layers, 4, size.length).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        tokens = torch.randint(size.vocabulary, (size.rows, size.length))
        lengths = zlib_lengths([" ".join(map(str, row)) for row in tokens.tolist()])
        rows = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}
        self.rows: Part = {name: value.to(device) for name, value in {**rows, "zlib_lengths": lengths}.items()}
        self.cotangent: Tensor | None = None

    @property
    def standing(self) -> int:
        """Bytes of weights, AdamW's moments and rows."""
        moments = [t for state in self.optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
        tensors = [*self.model.parameters(), *self.model.buffers(), *moments, *self.rows.values()]
        return sum(t.numel() * t.element_size() for t in tensors)

    def training(self) -> None:
        """The model's own loss."""
        inputs = {name: value for name, value in self.rows.items() if name != "zlib_lengths"}
        self.model(**inputs).loss.backward()

    def likelihood(self) -> None:
        """The library's retain loss."""
        mean_nll(outputs_of(self.model, self.rows)).backward()

    def bare(self) -> None:
        """Forward and backward without any loss."""
        logits = outputs_of(self.model, self.rows).logits
        if self.cotangent is None:
            self.cotangent = torch.full_like(logits, 1e-6)
        logits.backward(self.cotangent)

    def game(self, scores: ScoreMap) -> None:
        """All rows audited, both sides with gradient."""
        auditor = Auditor(scores=scores, hold_nonmembers=False)
        members, others = auditor.scores(outputs_of(self.model, self.rows)).chunk(2)
        auditor.payoff(members, others).value.backward()

    def objective(self) -> None:
        """Half the rows retained, a quarter each forgotten and validated; each term's graph is gone before the next."""
        half, quarter = self.size.rows // 2, self.size.rows // 4
        sizes = [half, quarter, self.size.rows - half - quarter]
        parts = zip(*(value.split(sizes) for value in self.rows.values()), strict=True)
        retain, forget, validation = (dict(zip(self.rows, part, strict=True)) for part in parts)
        game = GameObjective(cap=None)
        for term in game.terms(self.model, UnlearningBatch(retain, forget, validation)):
            term.loss.backward()

    @property
    def terms(self) -> dict[str, Term]:
        """Name -> term, the baseline first."""
        return {
            "training": self.training,
            "retain loss": self.likelihood,
            "game": lambda: self.game(sequence_log_likelihood),
            "game, eight scores": lambda: self.game(eight_scores),
            "objective": self.objective,
            "game, dense scores": lambda: self.game(dense_scores),
        }

    def step(self, term: Term) -> None:
        """Gradients and AdamW's step; no gradient is left."""
        term()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def gradients(self, term: Term) -> None:
        """Gradients alone."""
        term()
        self.optimizer.zero_grad(set_to_none=True)


def peak_bytes(call: Term, device: torch.device) -> int:
    """Most bytes that `call` has allocated at once, on top of what lived before it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = [(float(e["ts"]), int(e["args"]["Bytes"])) for e in events if e.get("name") == "[memory]"]
    live = peak = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        live += change
        peak = max(peak, live)
    return peak


def memory(steps: Steps) -> dict[str, dict[str, float]]:
    """Name -> peak bytes of a step, and how much more that is than the training step's, as a part of it."""
    peaks: dict[str, int] = {}
    for name, term in steps.terms.items():
        steps.step(term)
        peaks[name] = steps.standing + peak_bytes(lambda term=term: steps.step(term), steps.device)  # type: ignore[misc]
    return {name: {"peak": peak, "extra": peak / peaks["training"] - 1.0} for name, peak in peaks.items()}


def seconds(steps: Steps) -> dict[str, Times]:
    """Name -> seconds of forward and backward, interleaved."""
    names = ("training", "game", "game, eight scores", "game, dense scores")
    terms = {"pass": steps.bare, **{name: steps.terms[name] for name in names}}
    calls = {name: lambda _, term=term: steps.gradients(term) for name, term in terms.items()}
    for call in calls.values():
        call(0)
    return interleave(calls, steps.size.seconds, clock_of(steps.device))


def measure(size: Size, device: torch.device) -> dict[str, Any]:
    """Everything, as it is written."""
    steps = Steps(size, device)
    peaks, times = memory(steps), seconds(steps)
    return {
        "run": run_number(),
        "size": asdict(size),
        "device": str(device),
        "limit": LIMIT,
        "memory": peaks,
        "seconds": {
            name: {
                **asdict(time),
                "beyond_training": time.median / times["training"].median - 1.0,
                "beyond_pass": time.median / times["pass"].median - 1.0,
            }
            for name, time in times.items()
        },
        "machine": json.loads(machine(device, {})),
    }


def table(found: Mapping[str, Any]) -> str:
    """The figures as text."""
    lines = [f"{name:20} peak {v['peak'] / 2**20:9.1f} MiB  {v['extra']:+8.1%}" for name, v in found["memory"].items()]
    for name, v in found["seconds"].items():
        spread = f"{1e3 * v['p20']:.1f} to {1e3 * v['p80']:.1f}"
        beyond = f"{v['beyond_training']:+.1%} beyond training, {v['beyond_pass']:+.1%} beyond the pass"
        lines.append(f"{name:20} {1e3 * v['median']:8.1f} ms ({spread}, {v['samples']} calls)  {beyond}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; the exit status is 1 if the game's memory or time is above the limit."""
    parser = argparse.ArgumentParser(prog="python -m amu_fast.bench.language_memory", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, help="file of the record, JSON")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to try the plumbing")
    options = parser.parse_args(arguments)
    found = measure(SMOKE if options.smoke else Size(), torch.device(options.device))
    write_atomic(options.out, (json.dumps(found, indent=1) + "\n").encode())
    print(table(found))
    above = found["memory"]["game"]["extra"] > LIMIT or found["seconds"]["game"]["beyond_training"] > LIMIT
    return int(above)


if __name__ == "__main__":
    sys.exit(main())
