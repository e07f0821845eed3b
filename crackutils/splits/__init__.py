"""Room of the splits: find copies and overlaps, keep them on one side of a split, and check it by another method.

It imports core only.
"""
