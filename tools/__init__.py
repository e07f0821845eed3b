"""What works on the repository and is not installed: the series runner, the reference, tables, pretraining, benchmarks.

May import all of crackutils; nothing there imports this.
"""
