"""The spaces of this package's methods: what is searched of each, on a log scale, and where its search begins."""

from __future__ import annotations

from amu_fast.experiments.compare import builders as make
from amu_fast.experiments.compare.space import Axis, Space

_RATE = Axis(0.003, 0.3)
_BATCH = Axis(32, 128, whole=True)
_LAYERS = Axis(1, 3, whole=True)

OURS = (
    Space(
        "fine_tune",
        "fine-tuning",
        make.fine_tune,
        {"lr": Axis(0.02, 0.5), "batch": _BATCH},
        {"lr": 0.1, "batch": 64},
        "lr",
    ),
    Space(
        "gradient_ascent",
        "gradient ascent",
        make.ascent,
        {"lr": Axis(1e-5, 1e-2), "passes": Axis(1, 10)},
        {"lr": 1e-4, "passes": 5},
        "lr",
    ),
    Space(
        "neg_grad_plus",
        "NegGrad+",
        make.neg_grad_plus,
        {"lr": Axis(0.05, 1.0), "forget_weight": Axis(0.02, 2.0)},
        {"lr": 0.3, "forget_weight": 0.2},
        "forget_weight",
    ),
    Space(
        "random_labels",
        "random labels",
        make.random_labels,
        {"lr": _RATE, "batch": _BATCH},
        {"lr": 0.01, "batch": 64},
        "lr",
    ),
    Space(
        "l1_sparse",
        "l1-sparse",
        make.l1_sparse,
        {"lr": Axis(0.01, 0.5), "weight": Axis(1e-6, 2e-3)},
        {"lr": 0.05, "weight": 5e-4},
        "weight",
    ),
    Space("fisher", "Fisher forgetting", make.fisher, {"alpha": Axis(1e-9, 1e-5)}, {"alpha": 1e-6}, "alpha"),
    Space(
        "influence",
        "influence",
        make.influence,
        {"scale": Axis(0.1, 10.0), "damping": Axis(0.01, 1.0)},
        {"scale": 1.0, "damping": 0.1},
        "scale",
        make.one_product,
    ),
    Space(
        "scrub",
        "SCRUB",
        make.scrub(False),
        {"lr": Axis(1e-4, 0.03), "distillation": Axis(1e-3, 1.0)},
        {"lr": 5e-4, "distillation": 1e-3},
        "lr",
    ),
    Space(
        "scrub_r",
        "SCRUB+R",
        make.scrub(True),
        {"lr": Axis(1e-4, 0.03), "distillation": Axis(1e-3, 1.0)},
        {"lr": 5e-4, "distillation": 0.5},
        "lr",
    ),
    Space(
        "salun",
        "SalUn",
        make.salun,
        {"lr": _RATE, "share": Axis(0.05, 1.0, most=1.0)},
        {"lr": 0.013, "share": 0.5},
        "lr",
    ),
    Space(
        "ssd",
        "SSD",
        make.ssd,
        {"selection": Axis(1.0, 100.0), "dampening": Axis(0.1, 3.0)},
        {"selection": 10.0, "dampening": 1.0},
        "dampening",
        make.gradients_twice,
    ),
    Space("regun", "ReGUn", make.regun, {"lr": _RATE, "odds": Axis(0.03, 3.0)}, {"lr": 0.01, "odds": 1.0}, "odds"),
    Space(
        "msg",
        "MSG",
        make.msg,
        {"lr": _RATE, "share": Axis(0.03, 0.6, most=0.99)},
        {"lr": 0.01, "share": 0.3},
        "share",
        make.gradients_twice,
    ),
    Space(
        "moment_matching",
        "score moment matching",
        make.moments,
        {"lr": Axis(0.05, 0.5), "weight": Axis(0.2, 8.0)},
        {"lr": 0.15, "weight": 1.0},
        "weight",
    ),
    Space("amun", "AMUN", make.amun, {"lr": _RATE, "radius": Axis(0.3, 3.0)}, {"lr": 0.01, "radius": 1.0}, "lr"),
    Space("eu_k", "EU-k", make.eu_k, {"lr": Axis(0.01, 0.3), "k": _LAYERS}, {"lr": 0.1, "k": 2}, "lr"),
    Space("cf_k", "CF-k", make.cf_k, {"lr": Axis(0.01, 0.3), "k": _LAYERS}, {"lr": 0.1, "k": 2}, "lr"),
    Space(
        "zs_pag",
        "ZS-PAG",
        make.zs_pag,
        {"lr": Axis(1e-4, 0.03), "passes": Axis(1, 10)},
        {"lr": 1e-3, "passes": 3},
        "lr",
    ),
    Space(
        "stackelberg",
        "Stackelberg",
        make.game,
        {"lr": Axis(0.05, 0.5), "weight": Axis(1.0, 32.0)},
        {"lr": 0.15, "weight": 5.0},
        "weight",
    ),
    Space(
        "as_published",
        "Stackelberg, as published",
        make.published,
        {"lr": Axis(0.01, 0.2), "weight": Axis(0.05, 10.0)},
        {"lr": 0.01, "weight": 1.0},
        "weight",
    ),
)
