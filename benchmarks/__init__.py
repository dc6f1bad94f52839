"""Speed and memory as ratios to a peer or a floor measured in the same run: `docs/benchmarks.md`.

One module per benchmark; `harness` measures and reports, `children` are processes of their own.
Nothing here is in the wheel, and nothing here judges: a busy machine fails no test.
"""
