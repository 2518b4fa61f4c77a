"""The obspec protocols (https://developmentseed.org/obspec/). Needs the extra `obspec`."""

from blockyard.obspec.store import ObspecStore

__all__ = ["ObspecStore"]
