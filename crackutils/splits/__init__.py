"""Splits: find copies and overlapping crops, keep them on one side of a split, and check the result independently.

`make.make_split` makes the copy-safe, photo-safe and random splits. Imports core modules only.
"""
