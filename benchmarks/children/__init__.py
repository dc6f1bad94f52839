"""Processes that benchmarks start with `python -m`; each speaks JSON lines with its parent.

Their imports are part of what is measured, so this package imports nothing.
"""
