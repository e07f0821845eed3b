"""Files of users: read and write tables, match names, and protect files from loss.

May import the core only.
"""
