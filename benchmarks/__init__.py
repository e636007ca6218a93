"""Benchmarks; see README.md.

report.py            every speed that the README claims, beside its peers; one table, one picture
phases.py            where a step's time goes, record by record, and how far each product is from the peak
gate.py              whether the working tree is slower than the revision before it
costs.py             what activations, layers and optimisers add to a step
sparse.py            sparse rows beside scikit-learn
predictions.py       a prediction beside its peers
cuda.py              a GPU beside the CPU and its peers
time_to_accuracy.py  seconds until a test accuracy is reached
recipes/             settings that reach a documented accuracy on MNIST
suites/              airspeed velocity's: fit, step, kernels, predict, start, scaling, search, sparse, cuda

networks.py          what is timed: networks, their data, their first parameters
tasks.py             tasks with a held-out score
peers.py             fastmlp, PyTorch, JAX, scikit-learn and plain NumPy doing the same updates
measure.py           validates the contenders, then times them in turn
fma_peak.py          how many multiply-adds this machine does a second, measured beside every network
processes.py         whole processes: import, first fit, warm start, one row, MNIST
"""
