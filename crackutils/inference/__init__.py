"""Run frozen networks over many images, and keep the features that they compute.

Imports core modules only.
"""
