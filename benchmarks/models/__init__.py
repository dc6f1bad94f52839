"""How well models do on public data sets, against bars and baselines; data comes from a folder."""
