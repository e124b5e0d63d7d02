"""Adversarial unlearning inside other libraries' training loops; imported on demand, never by `amu_fast.unlearn`."""

from amu_fast.integrations.audits import Audit
from amu_fast.integrations.batches import MicroBatches, Order
from amu_fast.integrations.callbacks import AuditCallback, EarlyStop
from amu_fast.integrations.collators import PadRows, PartCollator
from amu_fast.integrations.data import UnlearnDatasets
from amu_fast.integrations.trainer import UnlearnTrainer

__all__ = [
    "Audit",
    "AuditCallback",
    "EarlyStop",
    "MicroBatches",
    "Order",
    "PadRows",
    "PartCollator",
    "UnlearnDatasets",
    "UnlearnTrainer",
]
