"""blockyard: an S3-compatible block store, fast and verified, blocking and asyncio alike."""

__version__ = "0.1.0"
