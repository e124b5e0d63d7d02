"""Triton kernels, one family per file: pure tensor functions that import torch and triton alone."""
