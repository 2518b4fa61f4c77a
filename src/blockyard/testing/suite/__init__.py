"""The parts of the conformance suite, one topic a module. `conformance.py` puts them together."""
