"""Files and streams of any size, stored as blocks `CONTENT/chunk-C/block-B`.

layout.py      keys and sizes, and what a listing of them proves: pure
sources.py     where the bytes of a new content come from, cut into blocks
targets.py     where the bytes of a content go: a file that appears whole, or a stream
operations.py  the operations, each written once over `blockyard.operations`
files.py       a content as an open file, for both clients
"""
