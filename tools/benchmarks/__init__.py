"""Measurements that docs and README of this folder report; each takes long and is run by hand."""
