"""Files and streams of any size, stored as blocks `CONTENT/chunk-C/block-B`.

layout.py     keys and sizes, and what a listing of them proves: pure
listing.py    what is stored of a content
writing.py    write, copy and delete, each written once over `blockyard.operations`
reading.py    to bytes, to a file or stream, block by block
window.py     read-ahead: the next pieces of a content, on their way while its reader works
sources.py    where the bytes of a new content come from; `streams.py` cuts them into blocks;
              `pipes.py` pipes, sockets and terminals
targets.py    where the bytes of a content go: a file that appears whole, or a stream
files.py      a content as an open file, for both clients
transfers.py  progress, errors of local files
"""
