"""Real servers for the tests, the demo and the benchmarks. Not part of the package users install.

One module a server, each with a context manager `serve(...)` that starts it on 127.0.0.1, on a
free port and in a temporary folder, waits until it answers, yields an `Endpoint`, and stops what
it started and nothing else. `python -m servers NAME` runs one by hand.
"""
