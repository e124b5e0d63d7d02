"""The cases as data. Sizes follow docs/performance.md; a smoke case exercises the same code in a moment."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class AuditorCase:
    """P1: fit and implicit gradient of groups x folds followers.

    Attributes:
        per_side: member rows of a group, and as many non-members; 7 in 10 train.
        columns: scores per row, without the intercept.
        checked_groups: groups whose problems the gate compares with the oracle; None: all.
        peer_groups: groups that a contender which solves one problem after another gets; its time is per problem.
        batch_groups: groups that a batched peer gets, in cache-sized batches, so that its time per problem does not
            depend on how many there are; None: all.
        sets: score tensors that calls rotate through.
    """

    name: str
    groups: int
    per_side: int
    columns: int
    folds: int = 3
    loss: str = "squared_hinge"
    standardize: bool = False
    l2: float = 1e-2
    checked_groups: int | None = None
    peer_groups: int = 2
    batch_groups: int | None = None
    sets: int = 4
    seconds: float = 40.0


@dataclass(frozen=True)
class ProductCase:
    """P2: operators over one matrix of rows, n x d."""

    name: str
    rows: int
    columns: int
    dtype: str = "float32"
    operator: str = "glm_hvp"
    right_sides: int = 1
    seconds: float = 10.0


@dataclass(frozen=True)
class SpdCase:
    """P3: batch dense symmetric positive definite systems of p unknowns and condition number kappa."""

    name: str
    batch: int
    unknowns: int
    condition: float
    dtype: str
    seconds: float = 3.0


@dataclass(frozen=True)
class SolveCase:
    """P5: one logistic Hessian whose features' spectrum decays, to a true relative residual of 1e-6.

    Attributes:
        decay: singular values of the features fall as j^-decay.
        l2: of the Hessian.
        rank: of our Nystrom preconditioner.
        sketch_rows: of its sketch.
        peer_rank: of the peers' low-rank preconditioners.
    """

    name: str
    rows: int
    columns: int
    decay: float = 1.0
    l2: float = 1e-5
    rank: int = 100
    sketch_rows: int = 4000
    peer_rank: int = 100
    seconds: float = 60.0


@dataclass(frozen=True)
class ModuleCase:
    """P4: steps of CG on the damped Hessian of a network of four layers.

    Attributes:
        columns: of the rows.
        width: of the three hidden layers.
        rows: n.
        steps: exactly so many.
        damping: above the size of the most negative eigenvalue.
    """

    name: str
    columns: int
    width: int
    rows: int = 1024
    steps: int = 20
    damping: float = 0.35
    seconds: float = 30.0


Case = AuditorCase | ModuleCase | ProductCase | SpdCase | SolveCase

_AUDITOR = (
    AuditorCase("cifar10", groups=10, per_side=100, columns=11, peer_groups=4),
    AuditorCase("cifar100", groups=100, per_side=10, columns=101, peer_groups=10),
    AuditorCase("language-model", groups=1, per_side=183, columns=16, peer_groups=1, seconds=25),
    # 10,080 problems: a count with many divisors, for contenders whose batches must be equal.
    AuditorCase(
        "large", groups=3360, per_side=143, columns=63, checked_groups=160, batch_groups=320, sets=1, seconds=120
    ),
    AuditorCase("cifar10-logistic", groups=10, per_side=100, columns=11, loss="logistic", seconds=15),
    AuditorCase("cifar100-logistic", groups=100, per_side=10, columns=101, loss="logistic", seconds=15),
    AuditorCase("cifar10-standardized", groups=10, per_side=100, columns=11, standardize=True, seconds=5),
    AuditorCase("cifar100-standardized", groups=100, per_side=10, columns=101, standardize=True, seconds=5),
)
_SHAPES = ((1_000_000, 64), (200_000, 1001), (50_000, 4096), (1_000, 131_072))


def _products(dtypes: tuple[str, ...]) -> tuple[ProductCase, ...]:
    products = [ProductCase(f"{n}x{d}", n, d, dtype) for n, d in _SHAPES for dtype in dtypes]
    further = [
        ProductCase(f"{name}-{n}x{d}", n, d, "float32", name, k, seconds=6.0)
        for name, k in (("glm_hvp_multi", 8), ("glm_gradient_curvature", 1), ("glm_mixed_vjp", 1))
        for n, d in ((1_000_000, 64), (50_000, 4096))
    ]
    return (*products, *further)


_SPD = tuple(
    SpdCase(f"{batch}x{p}-{kappa:.0e}-{dtype}", batch, p, kappa, dtype)
    for batch in (256, 4096)
    for p in (16, 64, 128)
    for kappa in (1e2, 1e4)
    for dtype in ("float32", "float64")
)
_EPOCH = AuditorCase("cifar100-epoch", groups=500, per_side=10, columns=101, peer_groups=10, seconds=15)

#: What a CPU runs, what a GPU runs, and all of it tiny.
CPU: tuple[Case, ...] = (
    *_AUDITOR,
    *_products(("float32",)),
    ModuleCase("mlp-1e4", columns=16, width=64, damping=0.15),
    ModuleCase("mlp-4e5", columns=100, width=420, seconds=120.0),
    SolveCase("logistic", 20_000, 4096),
    *_SPD,
)
GPU: tuple[Case, ...] = (
    *(replace(case, seconds=min(case.seconds, 10.0)) for case in (*_AUDITOR, _EPOCH)),
    *(replace(case, seconds=3.0) for case in _products(("float32", "bfloat16"))),
    *(replace(case, seconds=1.0) for case in _SPD),
    ModuleCase("mlp-1e4", columns=16, width=64, damping=0.15, seconds=8.0),
    ModuleCase("mlp-4e5", columns=100, width=420, seconds=8.0),
    ModuleCase("mlp-1e7", columns=500, width=2100, damping=0.5, seconds=15.0),
    SolveCase("logistic", 100_000, 4096, seconds=20.0),
)
SMOKE: tuple[Case, ...] = (
    AuditorCase("smoke-primal", groups=2, per_side=12, columns=3, peer_groups=1, sets=2, seconds=0.1),
    AuditorCase("smoke-dual", groups=2, per_side=5, columns=12, peer_groups=1, sets=2, seconds=0.1),
    AuditorCase("smoke-logistic", groups=2, per_side=12, columns=3, loss="logistic", sets=2, seconds=0.1),
    AuditorCase("smoke-standardized", groups=2, per_side=12, columns=3, standardize=True, sets=2, seconds=0.1),
    ProductCase("smoke", 300, 7, seconds=0.1),
    *(
        ProductCase(f"smoke-{name}", 300, 7, "float32", name, k, seconds=0.1)
        for name, k in (("glm_hvp_multi", 3), ("glm_gradient_curvature", 1), ("glm_mixed_vjp", 1))
    ),
    SpdCase("smoke-float32", 3, 5, 1e2, "float32", seconds=0.1),
    SpdCase("smoke-float64", 3, 5, 1e2, "float64", seconds=0.1),
    ModuleCase("smoke", columns=3, width=5, rows=20, steps=4, damping=1.0, seconds=0.1),
    SolveCase("smoke", 200, 20, rank=8, sketch_rows=200, peer_rank=8, seconds=0.1),
)


def family(case: Case) -> str:
    """P1 to P5."""
    return {AuditorCase: "P1", ProductCase: "P2", SpdCase: "P3", ModuleCase: "P4", SolveCase: "P5"}[type(case)]
