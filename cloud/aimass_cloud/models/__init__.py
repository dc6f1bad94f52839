"""Models of sensor telemetry: a closed-form VAR, a graph forecaster on top of it, and baselines.

Modules that need torch say so; `nesting`, `trained`, `var` and `pca` need numpy alone.
"""
