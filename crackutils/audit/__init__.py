"""Audit of the data (notebook 07): copies, mosaics, labels, image quality, leakage.

May import the core and `splits`.
"""
