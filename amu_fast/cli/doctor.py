"""`amu-fast doctor`: versions, what was built and why not, the backend table, and a self-test that can fail."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from importlib import metadata

import torch

from amu_fast import __version__, backends
from amu_fast.audit import Auditor
from amu_fast.ops.glm import GLM_HVP, glm_hvp

_PACKAGES = ("torch", "triton", "numpy", "scipy", "scikit-learn", "mlxtend", "matplotlib", "transformers")
# A float64 product of this size rounds to about 1e-15 of its terms; a wrong kernel is off by its first digits.
_CLOSE = 1e-12


@dataclass(frozen=True)
class Check:
    """One self-test: its name, whether it passed, and what it measured."""

    name: str
    passed: bool
    detail: str


def run_doctor(*, as_json: bool) -> int:
    """Print the examination and return the exit code: 0 healthy, 1 a self-test failed."""
    info = backends.build_info()
    table = backends.table()
    checks = (_check_hvp(), _check_gradient())
    healthy = all(check.passed for check in checks)
    if as_json:
        document = {
            "version": __version__,
            "platform": platform.platform(),
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in _PACKAGES},
            "devices": _devices(),
            "extension": asdict(info),
            "backends": [asdict(row) for row in table],
            "checks": [asdict(check) for check in checks],
            "healthy": healthy,
        }
        print(json.dumps(document, indent=2))
        return 0 if healthy else 1
    _print(info, table, checks)
    return 0 if healthy else 1


def _print(info: backends.BuildInfo, table: tuple[backends.Row, ...], checks: tuple[Check, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"amu_fast {__version__}, Python {platform.python_version()}, {platform.platform()}")
    console.print(", ".join(f"{name} {_version(name) or 'not installed'}" for name in _PACKAGES))
    console.print(f"devices: {', '.join(_devices())}")
    if info.library:
        console.print(f"C++ extension: built with torch {info.torch or '(unknown)'}, {info.compiler or '(unknown)'}")
    else:
        console.print(f"C++ extension: not built. {info.reason}")
        console.print("  to build it: AMU_FAST_BUILD_EXT=1 pip install --no-build-isolation .", soft_wrap=True)
    view = Table("operator", "device", "implementation", "why")
    for row in table:
        view.add_row(row.operator, row.device, row.implementation, row.why)
    console.print(view)
    for check in checks:
        console.print(f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.detail}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    return ["CPU", *(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))]


def _check_hvp() -> Check:
    """The operator that serves this machine against the reference."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(257, 33, generator=generator, dtype=torch.float64)
    c, v = torch.rand(257, generator=generator, dtype=torch.float64), torch.ones(34, dtype=torch.float64)
    got, expected = glm_hvp(x, c, v, 0.1, True), GLM_HVP.reference(x, c, v, 0.1, True)
    error = float((got - expected).norm() / expected.norm())
    return Check("glm_hvp against its reference", error < _CLOSE, f"relative difference {error:.1e}")


def _check_gradient() -> Check:
    """The auditor's gradient against a central difference of its re-solved payoff."""
    generator = torch.Generator().manual_seed(0)
    members = torch.randn(64, 2, generator=generator, dtype=torch.float64) + 1
    others = torch.randn(64, 2, generator=generator, dtype=torch.float64)
    direction = torch.randn(64, 2, generator=generator, dtype=torch.float64)
    auditor, step = Auditor(), 1e-6
    members.requires_grad_()
    gradient = torch.autograd.grad(auditor.payoff(members, others).value, members)[0]
    ends = [auditor.payoff(members.detach() + s * step * direction, others).value for s in (1, -1)]
    difference = float(ends[0] - ends[1]) / (2 * step)
    error = abs(difference - float((gradient * direction).sum())) / abs(difference)
    return Check("payoff's gradient against a central difference", error < 1e-5, f"relative difference {error:.1e}")
