"""blockyard under Zarr and fsspec, beside the clients that people use there.

`comparing.py` measures: `chunks.py` reads chunks and files, `uploads.py` writes a large file to
`sink.py`, which takes uploads and keeps nothing.
"""
