"""What `benchmarks/paper.py` and `benchmarks/accuracy.py` share: cells, the sets and accuracies behind them, and their pages."""
