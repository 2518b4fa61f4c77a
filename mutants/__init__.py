"""Small semantic mistakes planted in blockyard's source, each of which its tests must catch."""
