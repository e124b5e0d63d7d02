"""Experiments on real images: tasks, units, searches and the table of methods."""
