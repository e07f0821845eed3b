"""The crack network: build and train it, fit its last layer, and read its maps, logits and features.

Imports core modules, `inference` and `synthetic`.
"""
