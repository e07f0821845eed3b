"""Room of notebooks 05, 08 and 09 and of `tools`: finished runs side by side, as tables, tests and figures.

It imports core only.
"""
