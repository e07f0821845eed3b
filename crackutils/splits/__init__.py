"""Splits: find copies and overlaps, keep them in one part of a split, and check it by another method.

May import the core only.
"""
