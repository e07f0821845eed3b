"""Comparison of finished runs, as tables, tests and figures (notebooks 05, 08 and 09, and `tools`).

May import the core only.
"""
