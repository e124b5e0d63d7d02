"""What the pages below docs/ show runs, prints what they say, and is there."""

from __future__ import annotations

import importlib
import re
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

import amu_fast.unlearn as au

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
if not DOCS.is_dir():
    pytest.skip("needs the repository's docs folder", allow_module_level=True)

import run_page

#: Pages whose Python the tests run: here, in tests/test_readme.py and in tests/certificate/test_docs.py.
RUN_HERE = {"index", "start", "extending", "audit", "dangers", "large-models", "choosing"}
RUN_ELSEWHERE = {"README": "tests/test_readme.py", "certificates": "tests/certificate/test_docs.py"}
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def bash_lines():
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S):
            yield from ((page.stem, line) for line in block.splitlines() if line.strip())


def blobs():
    """Two classes in four parts, as splits and as a model's rows."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(900, 8, generator=rng)
    y = (x[:, 0] > 0).long()
    bounds = {"retain": (0, 300), "forget": (300, 420), "validation": (420, 660), "test": (660, 900)}
    return {name: (x[a:b], y[a:b]) for name, (a, b) in bounds.items()}


@pytest.fixture
def quick_save(monkeypatch):
    """Results are saved without figures, which tests/test_readme.py draws."""
    whole = au.Result.save
    monkeypatch.setattr(au.Result, "save", lambda self, folder, figures=False: whole(self, folder, figures=False))


def says_what_it_prints(page, scene=None):
    blocks = list(run_page.run(DOCS / f"{page}.md", scene))
    for block in blocks:
        assert run_page.agree(block.stated or "", block.printed), f"says\n{block.stated}\nprints\n{block.printed}"
    return blocks


def test_every_page_with_python_is_run_by_a_test():
    with_code = {page.stem for page in PAGES if "```python" in page.read_text()}
    assert with_code <= RUN_HERE | set(RUN_ELSEWHERE)
    for stem, test in RUN_ELSEWHERE.items():
        assert f"{stem}.md" in (ROOT / test).read_text()


def test_the_start_page_prints_what_it_says(tmp_path, monkeypatch, quick_save):
    pytest.importorskip("safetensors")
    monkeypatch.chdir(tmp_path)
    blocks = says_what_it_prints("start")
    assert sum(block.stated is not None for block in blocks) == 5
    assert (tmp_path / "out" / "run" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_start_page_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    says_what_it_prints("start")
    assert (tmp_path / "out" / "run" / "report.html").is_file()


def test_a_page_that_says_something_else_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text('```python\nprint("AUC", 0.61)\n```\n\n```text\nAUC 0.71\n```\n')
    (block,) = run_page.run(page)
    assert not run_page.agree(block.stated, block.printed)
    assert run_page.renewed(page) == page.read_text().replace("AUC 0.71", "AUC 0.61")


@pytest.mark.parametrize(
    ("stated", "printed", "same"),
    [("0.61 ok", "0.63 ok", True), ("0.61", "0.64", False), ("0.61 ok", "0.61 no", False), ("0.6", "0.60", True)],
)
def test_outputs_agree_up_to_two_of_the_last_digit(stated, printed, same):
    assert run_page.agree(stated, printed) is same


def test_what_the_page_on_extending_adds_works(tmp_path, monkeypatch):
    """The blocks make a package, its entry points are those of the page, and every gradient is right."""
    says_what_it_prints("extending")
    page = (DOCS / "extending.md").read_text()
    code = re.findall(r"```python\n(.*?)```", page, re.S)
    (tmp_path / "my_package.py").write_text("\n".join(code[i] for i in (0, 1, 3)))
    info = tmp_path / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (offered,) = re.findall(r"```toml\n(.*?)```", page, re.S)
    groups = re.sub(r'project\.entry-points\."([\w.]+)"', r"\1", offered).replace('"', "")
    (info / "entry_points.txt").write_text(groups)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    from amu_fast.cli.config import build_method
    from amu_fast.experiments.compare.spaces import spaces
    from amu_fast.experiments.tasks import Task

    assert [point.value for point in entry_points(group="amu_fast.methods")] == ["my_package:Uncertain"]
    method = build_method({"name": "uncertain", "weight": 2.0})
    assert (type(method).__name__, method.weight) == ("Uncertain", 2.0)
    space = spaces()["uncertain"]
    assert space.build(space.start, 1.0, Task()).epochs == 1.0


def test_the_methods_own_term_makes_a_model_unsure():
    (module,) = [m for m in _after("extending") if hasattr(m, "Uncertain")]
    rows = blobs()
    model = nn.Linear(8, 2)
    entropies = []
    for weight in (0.0, 5.0):
        unlearned = module.Uncertain(weight=weight, epochs=10.0).unlearn(model, au.Splits(**rows)).model
        log_p = unlearned(rows["forget"][0]).log_softmax(-1)
        entropies.append(float(-(log_p.exp() * log_p).sum(-1).mean().detach()))
    assert entropies[1] > entropies[0] + 0.1


def test_the_followers_gradient_is_that_of_its_closed_form():
    (module,) = [m for m in _after("extending") if hasattr(m, "Ridge")]
    x = module.scores.detach().clone().requires_grad_()
    y = module.signs.double()
    w = torch.linalg.solve(x.mT @ x / 30 + 0.1 * torch.eye(3, dtype=x.dtype), x.mT @ y / 30)
    w.square().sum().backward()
    torch.testing.assert_close(module.scores.grad, x.grad, rtol=1e-9, atol=1e-12)


def _after(stem):
    """The module that a page's blocks made; run once."""
    name = f"{stem}_page"
    if name not in sys.modules:
        list(run_page.run(DOCS / f"{stem}.md"))
    return [sys.modules[name]]


def test_the_first_page_runs(tmp_path, monkeypatch, quick_save):
    monkeypatch.chdir(tmp_path)
    says_what_it_prints("index", {"model": nn.Linear(8, 2), **blobs()})
    assert (tmp_path / "out" / "run" / "report.json").is_file()


def test_the_page_on_audits_runs(tmp_path, monkeypatch, quick_save):
    from amu_fast.audit import SplitOutputs
    from amu_fast.splits import PARTS

    monkeypatch.chdir(tmp_path)
    rows, model = blobs(), nn.Linear(8, 2)
    outputs = SplitOutputs.of(model, au.Splits(**rows), parts=PARTS)
    training = tuple(torch.cat(pair) for pair in zip(rows["retain"], rows["forget"], strict=True))
    # three more than the largest row number that the page asks for
    training = tuple(torch.cat([part, part])[:595] for part in training)
    scene = {**rows, "model": model, "training": training, "a": outputs, "b": outputs, "c": outputs, "d": outputs}
    for block in run_page.run(DOCS / "audit.md", scene):
        if block.printed:
            assert block.printed.startswith("inconclusive"), block.printed
    assert sys.modules["audit_page"].model is not model


def test_the_page_on_dangers_finds_the_patch(tmp_path):
    """Camouflage: the same bright patch on every forget row."""
    rng = torch.Generator().manual_seed(0)
    clean, labels = torch.rand(200, 1, 8, 8, generator=rng), torch.arange(200) // 2 % 2
    stamped = clean[:100].clone()
    stamped[:, :, :3, :3] = 1.0
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    scene = {"forget": (stamped, labels[:100]), "validation": (clean[100:], labels[100:]), "model": model}
    scene |= {"unlearned": model, "test_inputs": clean[100:], "test_labels": labels[100:]}
    printed = "".join(block.printed for block in run_page.run(DOCS / "dangers.md", scene))
    assert printed.startswith("trigger\n  rows")
    patch = torch.zeros(8, 8, dtype=torch.bool)
    patch[:3, :3] = True
    assert torch.equal(sys.modules["dangers_page"].found.pattern.mask[0], patch)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers")
def test_the_page_on_large_models_runs(tmp_path):
    from integrations import tiny

    from amu_fast.integrations import PadRows

    parts = {name: PadRows(0)(tiny.rows(6, seed)) for seed, name in enumerate(("retain", "forget", "validation"))}
    scene = {"model": tiny.llama(), "parts": parts, "step": 0, "args": tiny.arguments(tmp_path)}
    scene |= {name: tiny.rows(80, seed) for seed, name in enumerate(("retain", "forget", "validation", "test"))}
    list(run_page.run(DOCS / "large-models.md", scene))
    assert (tmp_path / "unlearn_report.json").is_file()


def test_commands_name_what_is_there():
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split())
    from amu_fast.cli.app import app

    commands = {c.name or c.callback.__name__ for c in app.registered_commands} | {
        g.name or g.typer_instance.info.name for g in app.registered_groups
    }
    seen = 0
    for page, line in bash_lines():
        line = line.split("#")[0]
        for target in re.findall(r"\bmake ([\w-]+)", line):
            assert target in phony, (page, line)
            seen += 1
        for module in re.findall(r"-m amu_fast\.bench\.?(\w*)", line):
            assert find_spec("amu_fast.bench" + (f".{module}" if module else "")), (page, line)
            seen += 1
        for script in re.findall(r"(?:python|torchrun\b.*?) ((?:examples|docs)/[\w/]+\.py)", line):
            assert (ROOT / script).is_file(), (page, line)
            seen += 1
        for command in re.findall(r"^amu-fast ([a-z]+)", line):
            assert command in commands, (page, line, commands)
            seen += 1
    assert seen > 40
