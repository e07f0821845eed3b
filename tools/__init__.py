"""Tools of the repository, not installed: the series runner, the reference, tables, pretraining, benchmarks.

May import all of crackutils; crackutils does not import tools.
"""
