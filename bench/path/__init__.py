"""A network path on one machine, with the delay, losses and failures that loopback has not.

`network.py` is the path: two network namespaces joined by `emulator.c`. `objects.py` and
`service.py` are an S3 service to put at its far end, `check.py` shows that the path is what it
says, and `comparing.py` measures clients over it. Linux and root only.
"""
