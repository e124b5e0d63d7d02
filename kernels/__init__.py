"""Triton kernels, one family per file: pure tensor functions that import torch and triton alone.

Every launcher takes its operator's arguments in the schema's order and serves float32 and bfloat16 rows (`x`,
`logits`); all other vectors are float32. Offsets of rows are 64-bit, every access is masked, sums are float32 within a
tile and double across tiles, in an order that shapes and `configurations` alone decide: results repeat bitwise.
"""
