"""Every kernel of some fits, compiled for a real architecture as it would be launched: NVVM, ptxas, and no spills.

Needs numba-cuda, whose wheels bring the compilers, but no device: arrays stay on the host, and launches only compile.
"""

import ctypes
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import test_custom

from fastmlp import (
    GELU,
    SGD,
    ActivityRegularization,
    AdaDelta,
    AdaMax,
    AdamW,
    AlphaDropout,
    AMSGrad,
    BatchNorm,
    CustomActivation,
    CutMix,
    Dense,
    Dropout,
    Embedding,
    GaussianNoise,
    GroupNorm,
    LayerNorm,
    Maxout,
    PReLU,
    RandomAffine,
    ReLU,
    Rescaling,
    Residual,
    RMSprop,
    Rprop,
    Sequential,
    Sine,
    Softmax,
    Tanh,
    devices,
    records,
)
from fastmlp.cuda import LEAST_CAPABILITY
from fastmlp.training import Training

ARCHITECTURE = 9, 0
X, Y = np.random.default_rng(0).normal(size=(5000, 300)), np.arange(5000) % 10


def ptxas():
    """NVIDIA's assembler: of its wheels, or on the path."""
    for folder in map(Path, sys.path):
        for place in sorted(folder.glob("nvidia/*/bin/ptxas")):
            return str(place)
    return shutil.which("ptxas")


pytestmark = [
    pytest.mark.skipif(find_spec("numba_cuda") is None, reason="needs numba-cuda, which is not installed"),
    pytest.mark.skipif(ptxas() is None, reason="needs ptxas, which is not installed"),
    pytest.mark.filterwarnings("ignore"),  # of packages that this suite otherwise never imports
]


class HostArray(np.ndarray):
    """What stands for an array on the device."""

    def copy_to_device(self, array, stream=0):
        pass

    def copy_to_host(self, array=None, stream=0):
        return self


class Queue:
    """A stream, and an event."""

    def __getattr__(self, name):
        return lambda *arguments: None


@pytest.fixture
def launched(monkeypatch):
    """Kernel -> its arguments and the threads of a block, of everything that is launched from here on."""
    from numba import cuda
    from numba.cuda import dispatcher

    from fastmlp.cuda import data, graphs

    device = SimpleNamespace(compute_capability=ARCHITECTURE)
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)
    monkeypatch.setattr(cuda, "get_current_device", lambda: device)

    def configured(kernel, grid, block, stream):
        return lambda *arguments: launches.setdefault(kernel, (arguments, block))

    launches = {}
    array = lambda shape, dtype: np.zeros(shape, dtype).view(HostArray)  # noqa: E731
    monkeypatch.setattr(cuda, "to_device", lambda a, stream=0: np.array(a).view(HostArray))
    monkeypatch.setattr(cuda, "device_array", array)
    monkeypatch.setattr(cuda, "pinned_array", array)
    monkeypatch.setattr(cuda, "stream", Queue)
    monkeypatch.setattr(cuda, "event", Queue)
    monkeypatch.setattr(cuda, "synchronize", lambda: None)
    monkeypatch.setattr(cuda, "current_context", lambda: None)
    monkeypatch.setattr(data, "free_memory", lambda: 2**40)
    monkeypatch.setattr(graphs, "_wanted", False)
    monkeypatch.setattr("fastmlp.cuda.driver.SIMULATED", True)  # copies are those of `HostArray`
    for module in ("launches", "executor"):
        monkeypatch.setattr(f"fastmlp.cuda.{module}.configured", configured)
    return launches


def numba_type(argument):
    from numba import types
    from numba.np.numpy_support import from_dtype

    if isinstance(argument, np.ndarray):
        return types.Array(from_dtype(argument.dtype), argument.ndim, "C")
    return types.float64 if isinstance(argument, float) else types.int64


def assemble(kernel, arguments, folder, architecture=ARCHITECTURE):
    """{"registers", "shared", "spills"} of the machine code, in numbers and bytes."""
    from numba import cuda

    signature = tuple(map(numba_type, arguments))
    ptx, _ = cuda.compile(kernel.py_func, signature, device=False, abi="numba", cc=architecture)
    source = folder / "kernel.ptx"
    source.write_text(ptx)
    target = "sm_" + "".join(map(str, architecture))
    command = [ptxas(), "-v", f"-arch={target}", str(source), "-o", str(folder / "kernel.cubin")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    number = lambda pattern: sum(map(int, re.findall(pattern, done.stderr)))  # noqa: E731
    return {
        "registers": number(r"Used (\d+) registers"),
        "shared": number(r"(\d+) bytes smem"),
        "stack": number(r"(\d+) bytes stack frame"),
        "spills": number(r"(\d+) bytes spill stores"),
    }


FITS = {
    "wide": ([Dense(200, l1=1e-4, l2=1e-4), GELU(), Dense(190), ReLU(), Dense(10)], {"optimizer": "adamw"}),
    "wide, of many rows": ([Dense(200), GELU(), Dense(190), ReLU(), Dense(10)], {"batch_size": 600}),
    "wide, in the largest tiles": ([Dense(2000), GELU(), Dense(1900), ReLU(), Dense(10)], {"batch_size": 900}),
    "norms": (
        [
            Dense(200, use_bias=False, max_norm=1.0),
            BatchNorm(),
            PReLU(),
            Residual(LayerNorm(), Dense(200), Tanh(), drop_rate=0.3),
            GroupNorm(4),
            Dropout(0.2),
            AlphaDropout(0.2),
            ActivityRegularization(0.1, 0.1),
            Softmax(),
            Dense(10),
        ],
        {"optimizer": RMSprop(1e-3, momentum=0.9, centered=True, clip_norm=1.0, ema_decay=0.9)},
    ),
    "frozen norms": (
        [Dense(200), BatchNorm(trainable=False), ReLU(), LayerNorm(trainable=False), PReLU(trainable=False), Dense(10)],
        {"optimizer": "sgd"},
    ),
    "three slots": ([Dense(200), ReLU(), Dense(10)], {"optimizer": AMSGrad(1e-3, ema_decay=0.9)}),
    "narrow, three slots": ([Dense(64), ReLU(), Dense(10)], {"optimizer": AMSGrad(1e-3), "X": 20}),
    "narrow, AdaMax": ([Dense(64), ReLU(), Dense(10)], {"optimizer": AdaMax(1e-3), "X": 20}),
    "narrow, Rprop": ([Dense(64), ReLU(), Dense(10)], {"optimizer": Rprop(), "X": 20}),
    "narrow, AdaDelta": ([Dense(64), ReLU(), Dense(10)], {"optimizer": AdaDelta(), "X": 20}),
    "augmented": (
        [GaussianNoise(0.1), RandomAffine((15, 20), degrees=9), CutMix(), Dense(200), ReLU(), Dense(10)],
        {"sample_weight": np.ones(5000)},
    ),
    "embedding": ([Embedding([9, 300], 50, columns=[2, 0]), Dense(200), ReLU(), Dense(10)], {"batch_size": 600}),
    "narrow": ([Dense(64), GELU(), Dense(64), ReLU(), Dense(10)], {"optimizer": AdamW(1e-3, ema_decay=0.9), "X": 20}),
    "narrow, of many columns": (
        [Dropout(0.1), Dense(128), Tanh(), AlphaDropout(0.1), Residual(Dense(128), drop_rate=0.1), GELU(), Dense(10)],
        {"batch_size": 500},
    ),
    "pieces": ([Maxout(200), Dense(190), ReLU(), Maxout(30, 3), Dense(10)], {}),
    "narrow, pieces": ([Maxout(64, 3), Dense(10)], {"X": 20}),
    "narrow, of many rows": ([Dense(64), GELU(), Dense(64), ReLU(), Dense(10)], {"batch_size": 5000, "X": 20}),
    "narrow, one layer": ([Rescaling(0.1), Dense(10)], {"optimizer": SGD(0.1, momentum=0.9, clip_value=1.0), "X": 20}),
}


def note_launches(layers, X, y, **options):
    """Let a fit of these rows launch what a step is."""
    model = Sequential(*layers, dtype=X.dtype.name).build(X.shape[1])
    with Training(model, X, y, device="cuda", **options) as training:
        scalars = np.ones((1, len(training.plan.groups), records.N_SCALARS))
        training.executor.bind(np.zeros((1, records.STEP), np.int64), None, scalars, np.zeros(1))
        for program in [*training.executor._programs, training.executor._look]:
            program._launch_each()


OF_PRODUCTS = ["wide, of many rows", "wide, in the largest tiles", "narrow", "narrow, of many rows"]


@pytest.mark.parametrize(
    ("name", "precision"),
    [(name, dtype) for name in FITS for dtype in ("float32", "float64")]
    + [(name, precision) for name in OF_PRODUCTS for precision in devices.PRECISIONS],
)
def test_kernels_compile_without_spilling_a_register(name, precision, launched, tmp_path):
    dtype, precision = ("float32", precision) if precision in devices.PRECISIONS else (precision, None)
    layers, options = FITS[name]
    options = {"loss": "softmax_cross_entropy", "optimizer": "adam", "batch_size": 128, "X": 300} | options
    note_launches(layers, X[:, : options.pop("X")].astype(dtype), Y, precision=precision, **options)
    assert len(launched) >= 2
    for kernel, (arguments, threads) in launched.items():
        for architecture in {ARCHITECTURE} if precision is None else {LEAST_CAPABILITY, ARCHITECTURE}:
            used = assemble(kernel, arguments, tmp_path, architecture)
            print(f"{name:24} {precision or dtype} {kernel.py_func.__name__:24} {architecture} {used}")
            assert used["spills"] == used["stack"] == 0, kernel  # arrays of threads are registers
            assert used["registers"] * threads <= 65536 and used["shared"] <= 48 * 1024, kernel


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("loss", "n_outputs"), [("softmax_focal", 10), ("ordinal", 9), ("hinge", 10), ("quantile", 3), ("gaussian", 2)]
)
def test_losses_of_whole_rows_compile(loss, n_outputs, dtype, launched, tmp_path):
    for layers, name in (([Dense(200), ReLU()], "loss"), ([], "rows_kernel")):
        layers = [*layers, Dense(n_outputs)]
        note_launches(layers, X.astype(dtype), Y, loss=loss, optimizer="sgd", batch_size=128)
        ((kernel, (arguments, _)),) = ((k, of) for k, of in launched.items() if k.py_func.__name__ == name)
        assert assemble(kernel, arguments, tmp_path)["spills"] == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ["contrastive", "triplet", "ranknet", "listnet"])
def test_losses_across_rows_compile(loss, dtype, launched, tmp_path):
    options = {"groups": np.arange(5000) // 8} if loss in ("ranknet", "listnet") else {}
    width, rest = 1 if options else 20, {"optimizer": "sgd", "batch_size": 100}
    note_launches([Dense(width)], X.astype(dtype), Y, loss=loss, **rest, **options)
    of_loss = [(k, of) for k, (of, _) in launched.items() if k.py_func.__module__.endswith("batch_losses")]
    assert len(of_loss) == (3 if loss == "triplet" else 2)
    for kernel, arguments in of_loss:
        assert assemble(kernel, arguments, tmp_path)["spills"] == 0, kernel


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sines_compile(dtype, launched, tmp_path):
    """With a stack: where the sine of large numbers is worked out."""
    for width in (20, 200):
        layers = [Dense(width), Sine(30.0), Dense(width), Sine(30.0), Dense(10)]
        note_launches(layers, X.astype(dtype), Y, loss="softmax_cross_entropy", optimizer="adam", batch_size=128)
    assert len(launched) >= 8
    for kernel, (arguments, _) in launched.items():
        used = assemble(kernel, arguments, tmp_path)
        print(f"sines {dtype} {kernel.py_func.__name__:24} {used}")
        assert used["spills"] == 0, kernel


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", test_custom.ACTIVATIONS)
def test_a_users_own_functions_compile(name, dtype, launched, tmp_path):
    for width in (20, 200):  # one kernel for all over rows, and many
        layers = [Dense(width), test_custom.ACTIVATIONS[name], Dense(3)]
        note_launches(layers, X.astype(dtype), X[:, :3], loss=test_custom.LOSS, optimizer="sgd", batch_size=128)
    assert len(launched) >= 8
    for kernel, (arguments, _) in launched.items():
        assert assemble(kernel, arguments, tmp_path)["spills"] == 0, kernel


@pytest.mark.parametrize("function", [np.real_if_close, np.round], ids=["by Numba", "by NVVM"])
def test_a_function_that_cannot_be_compiled_for_a_device_is_named(function, launched):
    own = CustomActivation(lambda z: function(z), lambda z: 1.0 + 0.0 * z, "own", check_derivative=False)
    with pytest.raises(TypeError, match="`value` of CustomActivation 'own' cannot be compiled by Numba"):
        note_launches([Dense(20), own, Dense(10)], X, Y, loss="softmax_cross_entropy", optimizer="sgd", batch_size=128)


def operands(function, instruction):
    """The numbers of `values`, by their places, that a function gives to an instruction, of each group of its operands:
    what it reads them from, followed through the registers of its PTX.
    """
    from numba import cuda, types

    arrays = types.Array(types.float32, 1, "C"), types.Array(types.float32, 1, "C")
    ptx, _ = cuda.compile(function, arrays, device=False, abi="numba", cc=LEAST_CAPABILITY)
    source, calls = {}, []
    for line in map(str.strip, ptx.splitlines()):
        if found := re.match(r"ld\.global\.[a-z0-9]+\s+(%\w+), \[%\w+(?:\+(\d+))?\];", line):
            source[found[1]] = int(found[2] or 0) // 4
        elif found := re.match(r"mov\.b32\s+(%\w+), (%\w+);", line):
            source[found[1]] = source.get(found[2])
        elif line.startswith(instruction):
            groups = re.findall(r"\{([^}]*)\}", line) or [re.sub(r"^\S+\s+|;", "", line)]
            calls.append([[source.get(name.strip()) for name in group.split(",")] for group in groups])
    return calls


@pytest.mark.parametrize(
    ("precision", "instruction"),
    [
        ("tf32", "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "),
        ("bf16", "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "),
    ],
)
def test_an_instruction_of_tensor_cores_gets_its_operands_in_their_order(precision, instruction):
    from numba import cuda, types

    from fastmlp.cuda import tensor_cores

    multiply = tensor_cores._INSTRUCTIONS[precision]

    def kernel(results, values):
        sums, x = cuda.local.array(16, types.float32, 16), cuda.local.array(8, types.float32, 16)
        y = cuda.local.array(4, types.float32, 16)
        for k in range(16):
            sums[k] = values[100 + k]
        for k in range(8):
            x[k] = values[200 + k]
        for k in range(4):
            y[k] = values[300 + k]
        multiply(sums, 1, 9, x, 4, y, 2)
        for k in range(16):
            results[k] = sums[k]

    ((_, a, b, c),) = operands(kernel, instruction)
    assert a == [204, 205, 206, 207] and b == [302, 303] and c == [101, 105, 109, 113]


def test_numbers_are_rounded_by_the_instructions_that_are_meant():
    from fastmlp.cuda import tensor_cores

    pair, rounded = tensor_cores.pair_of_bf16, tensor_cores.rounded_to_tf32

    def of_two(results, values):
        results[0] = pair(values[10], values[20])

    def of_one(results, values):
        results[0] = rounded(values[30])

    ((of_pair,),) = operands(of_two, "cvt.rn.bf16x2.f32 ")
    assert of_pair[1:] == [20, 10]  # the upper half is the first
    ((of_number,),) = operands(of_one, "cvt.rna.tf32.f32 ")
    assert of_number[1:] == [30]


class DeviceArray:
    """An array of numba-cuda's, as far as copies know it, whose memory is the host's."""

    def __init__(self, array):
        self.array, self.strides = array, array.strides
        self.device_ctypes_pointer = ctypes.c_size_t(array.ctypes.data)


@pytest.mark.parametrize("shape", [(7,), (7, 3)])
def test_copies_by_the_driver_itself(shape, monkeypatch):
    """Its bindings get what they take: places, bytes and the stream."""
    from cuda.bindings import driver as bindings

    from fastmlp.cuda import driver

    streams, error = [], bindings.CUresult.CUDA_SUCCESS

    def copy(to, source, n_bytes, stream):
        streams.append(int(bindings.CUstream(stream)))
        ctypes.memmove(int(to), int(source), n_bytes)
        return (error,)

    stream = type("Stream", (Queue,), {"__int__": lambda self: 77})()
    monkeypatch.setattr(bindings, "cuMemcpyHtoDAsync", copy)
    monkeypatch.setattr(bindings, "cuMemcpyDtoHAsync", copy)
    copies, device = driver.Copies(stream), DeviceArray(np.zeros(shape))
    host = np.random.default_rng(0).normal(size=(4, *shape[1:]))
    copies.to_device(host, device)
    assert np.array_equal(device.array[:4], host) and not device.array[4:].any()
    back = np.zeros((2, *shape[1:]))
    copies.to_host(device, back, 1)
    assert np.array_equal(back, host[1:3]) and streams == [77, 77]
    error = bindings.CUresult.CUDA_ERROR_INVALID_VALUE
    with pytest.raises(RuntimeError, match="cuMemcpyHtoDAsync: CUDA_ERROR_INVALID_VALUE"):
        copies.to_device(host, device)


def test_packages_that_do_not_go_together_are_named(monkeypatch):
    from importlib.metadata import version

    from numba import cuda as numba_cuda

    from fastmlp import cuda

    def fails(name):
        raise AttributeError("module 'numpy' has no attribute 'row_stack'")

    monkeypatch.setattr(numba_cuda, "is_available", lambda: True)
    cuda.require()
    monkeypatch.setattr(cuda, "import_module", fails)
    with pytest.raises(
        ImportError, match=rf"{version('numba-cuda')} does not work with NumPy .*row_stack.*device='cpu'"
    ):
        cuda.require()


def test_compiled_kernels_are_kept_in_files(launched, tmp_path, monkeypatch, capsys):
    """What one process saves is found by the same name and loaded; a damaged file is compiled anew, with a warning."""
    from numba import cuda, types
    from numba.cuda.dispatcher import _Kernel

    from fastmlp.cuda import compiled, rows

    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cuda, "get_current_device", lambda: SimpleNamespace(compute_capability=ARCHITECTURE))
    kernel, device = rows.scatter("float32"), SimpleNamespace(compute_capability=ARCHITECTURE)
    monkeypatch.setattr("numba.cuda.cudadrv.devices.get_context", lambda *_: SimpleNamespace(device=device))
    integers, matrix = types.Array(types.int64, 1, "C"), types.Array(types.int64, 2, "C")
    signature = (integers, matrix, matrix, types.int64, *(types.Array(types.float32, n, "C") for n in (1, 2)))
    monkeypatch.setattr("fastmlp.engine.jit._announced", set())
    assert kernel._cache.load_overload(signature, None) is None
    assert re.fullmatch(rf"fastmlp: compiling CUDA kernels .* {tmp_path}/.*\n", capsys.readouterr().err)
    made = _Kernel(kernel.py_func, signature, **kernel.targetoptions)
    code = made._codelibrary.get_cubin(cc=ARCHITECTURE).code
    kernel._cache.save_overload(signature, made)
    loaded = kernel._cache.load_overload(signature, None)
    assert loaded.entry_name == made.entry_name and not capsys.readouterr().err
    assert loaded._codelibrary.get_cubin(cc=ARCHITECTURE).code == code
    name = "rows.scatter('float32',)"
    names = {compiled.file_name(kernel, name, signature), compiled.file_name(kernel, "another", signature)}
    names.add(compiled.file_name(kernel, name, signature[:-1]))
    for options in ({"debug": True}, {"opt": False}):
        monkeypatch.setattr(kernel, "targetoptions", kernel.targetoptions | options)
        names.add(compiled.file_name(kernel, name, signature))
    monkeypatch.undo()
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cuda, "get_current_device", lambda: SimpleNamespace(compute_capability=(8, 6)))
    names.add(compiled.file_name(kernel, name, signature))
    assert len(names) == 6
    monkeypatch.setattr(cuda, "get_current_device", lambda: SimpleNamespace(compute_capability=ARCHITECTURE))
    stamps = {compiled.stamp()}
    for change in ((compiled, "_SOURCES", "other"), (compiled.jit, "SOURCES", "other")):
        with monkeypatch.context() as patch:
            patch.setattr(*change)
            stamps.add(compiled.stamp.__wrapped__())
    with monkeypatch.context() as patch:
        patch.setattr(cuda.runtime, "get_version", lambda: (14, 0))
        stamps.add(compiled.stamp.__wrapped__())
    assert len(stamps) == 4
    (path,) = tmp_path.glob("*/*")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.warns(UserWarning, match="damaged; compiling it again"):
        assert kernel._cache.load_overload(signature, None) is None
    path.unlink()
    monkeypatch.setattr(_Kernel, "_reduce_states", lambda self: {"cannot be pickled": lambda: None})
    with pytest.warns(UserWarning, match="cannot keep the CUDA kernel rows.scatter"):
        kernel._cache.save_overload(signature, made)
    assert not path.exists()
