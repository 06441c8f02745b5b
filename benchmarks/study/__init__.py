"""What `benchmarks/paper.py` and `benchmarks/accuracy.py` share: cells, sets, accuracies, pages."""
