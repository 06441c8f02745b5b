"""Random damage to every file and option that `atom-cli` takes: `PYTHONPATH=tests python -m fuzzing --cases 10000`.

A case is a kind and a seed, and can be run again: `python -m fuzzing --only set/elements --seed 17 --cases 1`.
"""
