"""What a certificate shows and what it cannot; the words that stand in every certificate and every verification."""

from __future__ import annotations

ESTABLISHES = (
    "integrity: certificate and listed files are, byte for byte, those that were certified",
    "signer: whoever holds the private half of a trusted key signed this certificate (if it is signed)",
    "order: this certificate was issued after the one it names as previous",
    "consistency: intervals of the AUC follow from the stored scores, where these are present, and the verdict does "
    "not contradict its policy and its claims",
    "inclusion: a record with a valid proof is among the subject records of the request",
)

CANNOT_ESTABLISH = (
    "that the training data were as listed",
    "that no copy of the data or of the model before exists",
    "that the clocks were right",
    "that the weights came from the stated procedure: weights alone show no history (arXiv 2110.11891)",
    "that attacks not named here fail",
    "that no later certificate was cut off the end of the chain: without a timestamp from outside this stays unseen",
    "that an unsigned certificate was not forged: its hash finds accidents only",
)

COPIES = (
    "weights of the model before",
    "optimiser state",
    "checkpoints",
    "caches of scores and activations",
    "shadow models trained with the forget rows",
    "forget rows in data stores and backups",
)
"""Kinds of copies whose fate a certificate states."""
