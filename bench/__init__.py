"""The benchmark: blockyard and its peers, side by side on one machine.

`make bench` runs it all, `make bench-report` writes docs/BENCHMARKS.md from the saved results.

workloads.py says what is measured and peers/ how each client does it; worker.py runs one client
in a process of its own and fleet.py has the workers take turns, so that figures which are
compared were taken within a second of each other. pages.py stands in for an S3 service where
nginx can't. startup.py, memory.py and processes.py measure what a running loop doesn't show.
targets.py holds the ratios that are promised, report.py and plots.py show what came of them.
"""
