"""The rooms of the API reference, read from the sources without importing them.

A room is a page. It shows the public names of its modules: those in `__all__`, or every public class and function where
a module has none. A name that several packages offer is documented once, at home; the others link to it.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from plain_markdown import escaped

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Room:
    """One page of the reference.

    Attributes:
        slug: File name below `api/`.
        title: Heading.
        modules: Modules whose public names it shows, in this order.
    """

    slug: str
    title: str
    modules: tuple[str, ...]


ROOMS = (
    Room(
        "unlearn",
        "Unlearning",
        (
            "amu_fast.unlearn",
            "amu_fast.unlearn.checkpoint",
            "amu_fast.unlearn.requests",
            "amu_fast.unlearn.plugins",
            "amu_fast.unlearn.game",
            "amu_fast.unlearn.training",
            "amu_fast.unlearn.streams",
        ),
    ),
    Room("methods", "Methods", ("amu_fast.unlearn.methods",)),
    Room("objectives", "Objectives", ("amu_fast.unlearn.objectives",)),
    Room("audit", "The auditor", ("amu_fast.audit",)),
    Room("attacks", "Attacks", ("amu_fast.audit.attacks",)),
    Room("statistics", "Statistics", ("amu_fast.audit.statistics",)),
    Room("followers", "Followers", ("amu_fast.followers",)),
    Room("implicit", "Implicit differentiation", ("amu_fast.implicit",)),
    Room("linalg", "Linear algebra", ("amu_fast.linalg", "amu_fast.linalg.modules")),
    Room("ops", "Operators", ("amu_fast.ops", "amu_fast.ops.losses")),
    Room("integrations", "Integrations", ("amu_fast.integrations",)),
    Room(
        "experiments",
        "Experiments",
        (
            "amu_fast.experiments.tasks",
            "amu_fast.experiments.forget_sets",
            "amu_fast.experiments.units",
            "amu_fast.experiments.compare.space",
            "amu_fast.experiments.compare.spaces",
            "amu_fast.experiments.language.tofu",
            "amu_fast.experiments.language.tofu_metrics",
        ),
    ),
    Room("dangers", "Dangers", ("amu_fast.experiments.dangers",)),
    Room("fleet", "Fleets of shadow models", ("amu_fast.fleet",)),
    Room("certificate", "Certificates", ("amu_fast.certificate",)),
    Room("report", "Reports", ("amu_fast.report", "amu_fast.report.audit_figures", "amu_fast.report.figures")),
    Room(
        "foundations",
        "Foundations",
        (
            "amu_fast",
            "amu_fast.splits",
            "amu_fast.rows",
            "amu_fast.protocols",
            "amu_fast.status",
            "amu_fast.errors",
            "amu_fast.backends",
            "amu_fast.cli",
        ),
    ),
)


@dataclass(frozen=True)
class Module:
    """What the reference needs to know of a source file.

    Attributes:
        name: Dotted name.
        doc: Docstring.
        public: Public names.
        imported: Name -> where it was imported from.
        summaries: First paragraphs of the docstrings of what is defined here, constants included.
    """

    name: str
    doc: str
    public: tuple[str, ...]
    imported: dict[str, str] = field(default_factory=dict)
    summaries: dict[str, str] = field(default_factory=dict)


def source(name: str) -> Path | None:
    """The file of a module, or None if there is no such module."""
    path = ROOT.joinpath(*name.split("."))
    return next((p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file()), None)


@cache
def read(name: str) -> Module:
    """A module's public names, taken from its syntax tree.

    Raises:
        LookupError: There is no such module.
    """
    path = source(name)
    if path is None:
        raise LookupError(f"there is no module {name} below {ROOT}")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public, imported, summaries, lazy, constants = None, {}, {}, {}, {}
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            summaries[node.name] = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            target = node.targets[0].id
            if target == "_PUBLIC":
                lazy = {key: f"{name}.{home}.{key}" for key, home in ast.literal_eval(node.value).items()}
            elif target == "__all__":
                public = _listed(node.value, lazy)
            elif isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                constants[target] = str(after.value.value).split("\n\n")[0].replace("\n", " ")
    names = tuple(summaries) if public is None else public
    return Module(name, ast.get_docstring(tree) or "", names, imported | lazy, constants | summaries)


def _listed(value: ast.expr, lazy: dict[str, str]) -> tuple[str, ...]:
    """The strings of an `__all__`; `*_PUBLIC` stands for the names of that table."""
    names: list[str] = []
    for item in value.elts if isinstance(value, ast.List | ast.Tuple) else ():
        names += lazy if isinstance(item, ast.Starred) else [ast.literal_eval(item)]
    return tuple(name for name in names if not name.startswith("__"))


def defined(module: str, name: str) -> str:
    """Dotted name of where a public name is defined: imports are followed."""
    found = read(module)
    if name not in found.imported or name in found.summaries:
        return f"{module}.{name}"
    whole = found.imported[name]
    if source(whole) is not None:
        return whole
    return defined(*whole.rsplit(".", 1))


def summary(whole: str) -> str:
    """First paragraph of the docstring of what is defined under a dotted name; empty where there is none."""
    if source(whole) is not None:
        return read(whole).doc.split("\n\n")[0].replace("\n", " ")
    module, name = whole.rsplit(".", 1)
    return read(module).summaries.get(name, "")


@cache
def homes() -> dict[str, str]:
    """Where something is defined -> the module of the reference that documents it."""
    offers: dict[str, list[str]] = {}
    for room in ROOMS:
        for module in room.modules:
            for name in read(module).public:
                offers.setdefault(defined(module, name), []).append(module)

    def nearest(whole: str, module: str) -> int:
        return len(module) if whole.startswith(f"{module}.") else 0

    return {whole: max(modules, key=lambda m: nearest(whole, m)) for whole, modules in offers.items()}


def page(room: Room) -> str:
    """The Markdown of a room: per module its docstring, a table of its names, and those that are at home in it."""
    parts = [f"# {room.title}"]
    for module in room.modules:
        parts += _section(module)
    return "\n\n".join(parts) + "\n"


def _section(module: str) -> list[str]:
    found = read(module)
    wholes = {name: defined(module, name) for name in found.public}
    rows = [f"| [`{name}`][{anchor(whole)}] | {_cell(summary(whole))} |" for name, whole in wholes.items()]
    at_home = [whole for whole in wholes.values() if homes()[whole] == module]
    first, _, rest = escaped(found.doc).partition("\n\n")
    directives = [f"::: {anchor(whole)}\n    options:\n      heading_level: 3" for whole in at_home]
    return [f"## `{module}`", first, *([rest] if rest and ">>>" not in rest else []),
            "\n".join(["| name | |", "| --- | --- |", *rows]), *directives]  # fmt: skip


def anchor(whole: str) -> str:
    """Under which name the reference has it: the home's, which is how it is imported.

    Where a module has the name too, its own function's full name is unambiguous to a reader of sources.
    """
    public = f"{homes()[whole]}.{whole.rsplit('.', 1)[1]}"
    return whole if source(whole) is not None or source(public) is not None else public


def index() -> str:
    """The reference's first page: one line a room."""
    rows = [
        f"| [{room.title}]({room.slug}.md) | {', '.join(f'`{m}`' for m in room.modules)} | "
        f"{_cell(read(room.modules[0]).doc.split(chr(10) * 2)[0].replace(chr(10), ' '))} |"
        for room in ROOMS
    ]
    return "\n".join([
        "# API", "",
        "From the docstrings. Names in several packages are documented once and linked from the others.", "",
        "| room | modules | |", "| --- | --- | --- |", *rows, "",
    ])  # fmt: skip


def _cell(text: str) -> str:
    return escaped(text).replace("|", "\\|")
