"""From a configuration to an open store, in one readable function."""
