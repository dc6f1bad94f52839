"""The chapters of the demo: each does one thing, says what happened and returns its figures."""
