"""Caches in front of a store: what was read is kept, verified, in memory and in a folder."""
