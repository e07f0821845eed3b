"""Room of notebook 07, the audit of the data: copies, mosaics, labels, image quality, leakage.

It imports core and `splits`.
"""
