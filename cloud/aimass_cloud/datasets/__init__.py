"""Reads data of every layout that a recipe takes, local or in an S3 store; docs/data.md has them.

`tables` reads what fits in memory, `shards` streams what does not, `series` puts the parts of a
plant's recordings together. Nothing here needs torch.
"""
