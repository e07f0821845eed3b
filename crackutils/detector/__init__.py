"""The crack detector: build and train it, fit its last layer, and read its maps, logits and features.

May import the core, `inference` and `synthetic`.
"""
