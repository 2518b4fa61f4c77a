"""The fault campaign: does blockyard stay right when everything around it goes wrong?

`python -m campaign` puts workers of every kind (threads, asyncio tasks, forked processes) to
work through a proxy that does harm at stated rates, each worker with a model of what its blocks
may hold, and counts every broken promise. `docs/RELIABILITY.md` says what came of it. Not part
of the package users install.

`blocks` and `expected` are what is stored and what may be found, `actor` performs operations and
holds their answers to that, `mix` and `machine` (Hypothesis) choose operations, `workers` runs
them, `weather` and `bucket` are the harm and the server behind it, `outages` kills a real one.
"""
