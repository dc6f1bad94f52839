"""The ridge VAR under the name that models have for it; it is shared, because devices solve it."""

from aimass_shared.var import FLAT, RIDGE, SHRINKAGE, Var, solve

__all__ = ["FLAT", "RIDGE", "SHRINKAGE", "Var", "solve"]
