"""Room of notebook 06: draws, folds and tables that measure mistakes.

It imports core only.
"""
