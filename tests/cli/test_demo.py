"""The demo end to end on a task of seconds: its table, report and pictures, from a cache the second time."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from amu_fast.certificate import verify
from amu_fast.cli import demo
from amu_fast.cli.certify import CertifyOptions, run_certify
from amu_fast.errors import DataError

PICTURES = ("losses.png", "roc.png", "players.png")


@pytest.fixture
def tiny(monkeypatch):
    task = replace(
        demo.DEMO_TASK,
        train=400,
        forget=100,
        validation=300,
        test=500,
        epochs=6.0,
        width=4,
        hidden=16,
        unlearn_batch=32,
    )
    monkeypatch.setattr(demo, "DEMO_TASK", task)


def run(out, **options):
    demo.run_demo(
        **({"data": "digits", "data_dir": None, "units": 1, "seed": 0, "out": out, "as_json": True} | options)
    )


def test_one_unit_has_row_intervals_and_several_have_unit_intervals(tiny, tmp_path, capsys):
    run(tmp_path)
    document = json.loads(capsys.readouterr().out)["report"]
    names = [row["name"] for row in document["comparison"]["methods"]]
    assert names[0] == "original"
    assert {"fine-tuning", "NegGrad+", "score moment matching", "Stackelberg"} <= set(names)
    assert len(document["runs"]) == 4
    for run_record in document["runs"]:
        assert run_record["gradient_samples"] >= run_record["budget"]
        assert run_record["gradient_samples"] <= run_record["budget"] + 200
    assert "for this model only" in (tmp_path / "table.md").read_text()
    for name in PICTURES:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "game" / "report.html").read_text()
    assert "Verdict" in page
    assert "stackelberg" in page
    assert json.loads((tmp_path / "game" / "audit.json").read_text())["schema"] == "amu-fast-audit/1"
    certified(tmp_path)
    capsys.readouterr()
    trained = sorted(path.name for path in (tmp_path / "cache").iterdir())

    run(tmp_path, units=2)
    again = json.loads(capsys.readouterr().out)["report"]
    assert again["units"] == [0, 1]
    assert set(trained) < {path.name for path in (tmp_path / "cache").iterdir()}
    first = {row["name"]: row["differences"] for row in document["comparison"]["methods"]}
    for row in again["comparison"]["methods"]:
        for metric, values in row["differences"].items():
            assert values[0] == first[row["name"]][metric][0]
    assert "2 units" in (tmp_path / "table.md").read_text()


def certified(out):
    """The audited folder takes a certificate whose verdict is the audit's, and the certificate holds."""
    options = CertifyOptions(
        folder=out / "game",
        unsigned=True,
        policy=out / "game" / "policy.json",
        verdict=out / "game" / "verdict.json",
        private=out / "private.json",
    )
    run_certify(options)
    certificate, verdict = (json.loads((out / "game" / f"{n}.json").read_text()) for n in ("certificate", "verdict"))
    assert certificate["verdict"]["outcome"] == verdict["outcome"]
    assert certificate["verdict"]["reasons"] == verdict["reasons"]
    assert len(certificate["audits"]) == 4
    assert verify(out / "game" / "certificate.json").exit_code == 5  # intact, unsigned


def test_unknown_data_is_named(tiny, tmp_path):
    with pytest.raises(DataError, match=r"data must be one of .*got 'imagenet'"):
        run(tmp_path, data="imagenet")
