"""Coverage-guided fuzzing of everything that reads what a service or a user may have made up.

`targets.py` needs nothing but blockyard: each target is a function of bytes that raises when
something has gone wrong. `python -m fuzz TARGET` feeds one with what atheris makes up;
`make fuzz` does so with each for a while.
"""
