"""Helpers of the notebook series on concrete cracks; importing this package loads nothing heavy."""

__version__ = "0.2.0"
