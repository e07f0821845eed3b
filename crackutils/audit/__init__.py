"""Audit of the data for notebook 07: copies, mosaics, labels, image quality, and the cost of leakage.

Imports core modules and `splits`.
"""
