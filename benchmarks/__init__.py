"""Benchmarks: `python benchmarks/peak.py` prints every speed that the README claims, beside its peers.

peak.py        the command: times, ratios, targets
networks.py    what is timed: networks, their data, their first parameters
peers.py       fastmlp, PyTorch, JAX, scikit-learn and plain NumPy doing the same updates
fma_peak.py    how many multiply-adds this machine does a second, measured beside every network
processes.py   whole processes: import, first fit, warm start, one row, MNIST
"""
