"""Run frozen networks on many images, and cache the features.

May import the core only.
"""
