"""Scale-out: `score` and `inspect` on a Ray cluster, with the library code that the plain commands use.

Needs the extra `ray`. May import core, inference, inspection, scoring and userfiles.
"""
