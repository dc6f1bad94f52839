"""Alembic's scripts, run by `Store.migrate`; there is no ini file.

A new revision: change tables.py, run the test that compares both, and write what it prints into
`versions/rNNNN_<what>.py`.
"""
