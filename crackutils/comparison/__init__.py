"""Room of notebook 05: finished runs side by side, as tables, tests and figures.

It imports core only.
"""
