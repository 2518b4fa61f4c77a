"""fsspec file systems (https://filesystem-spec.readthedocs.io). Needs the extra `fsspec`."""

from blockyard.fsspec.filesystem import BlockyardContentFileSystem, BlockyardFileSystem

__all__ = ["BlockyardContentFileSystem", "BlockyardFileSystem"]
