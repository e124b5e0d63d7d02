"""The README's training loop runs as printed and does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def digits():
    data = load_digits()
    inputs = torch.tensor(data.data, dtype=torch.float32) / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return inputs[order], labels[order]


def trained(inputs, labels):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        functional.cross_entropy(model(inputs), labels).backward()
        optimiser.step()
    return model


def test_the_training_loop_lowers_what_the_auditor_earns():
    inputs, labels = digits()
    # A tenth of the labels is wrong, so that there is something to memorise and to forget.
    wrong = torch.rand(len(labels), generator=torch.Generator().manual_seed(1)) < 0.1
    labels = torch.where(wrong, (labels + 1) % 10, labels)
    retain, forget, validation = slice(0, 300), slice(300, 500), slice(500, 900)
    model = trained(inputs[:500], labels[:500])
    rows = [(inputs[part], labels[part]) for part in (retain, forget, validation)]
    scope = {
        "model": model,
        "batches": [rows] * 100,
        "optimiser": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    }
    payoffs = []

    def gap():
        with torch.no_grad():
            scores = [model(x).softmax(-1).gather(1, y[:, None]).mean() for x, y in rows[1:]]
        return float(scores[0] - scores[1])

    before = gap()
    exec(
        compile(
            BLOCKS[0].replace("optimiser.step()", "optimiser.step(); seen.append(payoff.value.item())"),
            "README",
            "exec",
        ),
        scope | {"seen": payoffs},
    )
    assert len(payoffs) == 100
    assert payoffs[-1] < payoffs[0]
    assert gap() < 0.5 * before


def test_the_one_call_example_runs(tmp_path):
    import amu_fast.unlearn as au

    inputs, labels = digits()
    scope = {"au": au, "model": trained(inputs[:500], labels[:500])}
    bounds = {"retain": (0, 300), "forget": (300, 500), "validation": (500, 900), "test": (900, 1797)}
    scope |= {name: (inputs[a:b], labels[a:b]) for name, (a, b) in bounds.items()}
    exec(compile(BLOCKS[1].replace("out/run", str(tmp_path / "run")), "README", "exec"), scope)
    assert {"report.json", "model.safetensors"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_the_results_are_those_of_the_committed_records():
    from amu_fast.bench.readme import rendered

    assert rendered(README) == README
