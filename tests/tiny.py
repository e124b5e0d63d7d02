"""A task that trains in a third of a second: scikit-learn's digits with a fifth of the labels wrong."""

from __future__ import annotations

from amu_fast.experiments.tasks import Task
from amu_fast.unlearn.optimise import Sgd

TASK = Task(
    data="digits",
    train=200,
    forget=60,
    validation=120,
    test=400,
    noise=0.2,
    epochs=15.0,
    batch_size=20,
    optimiser=Sgd(lr=0.05, weight_decay=0.0, warmup=0.1),
    unlearn_batch=20,
    width=4,
    hidden=32,
)
