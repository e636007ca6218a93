"""Machine code: nothing at import, once for all architectures, kept between processes, and never trusted blindly.

All of it in child processes, for what is imported and compiled is a property of a process. One of them starts with an
empty cache and takes some seconds; the others share what it compiled, or compile only kernels that take a moment.
"""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import fastmlp
from fastmlp.engine import compiling, jit
from fastmlp.engine.threads import usable_cores

ROOT = Path(fastmlp.__file__).parents[1]
HEAVY = ["numba", "llvmlite", "sklearn", "scipy", "rich", "pandas", "pyarrow", "safetensors", "narwhals", "joblib"]

# What every child starts with. `fit` trains something small in the network's dtype and returns its losses.
PRELUDE = """
import json, os, sys, warnings
import numpy as np
from fastmlp import Dense, ReLU, SGD, Sequential

def fit(*layers, n=60, n_features=3, **arguments):
    layers = layers or (Dense(3), ReLU(), Dense(1))
    X = np.random.default_rng(0).normal(size=(n, n_features)).astype(np.float32)
    y = X[:, :1] * np.ones(layers[-1].units)
    fit = dict(loss="squared_error", optimizer=SGD(0.01), epochs=2, n_threads=1, verbose=0)
    return Sequential(*layers).fit(X, y, **{**fit, **arguments})["loss"]

def report(**values):
    print(json.dumps(values))
"""
SMALL = ["relu.value", "bias_gradient", "sgd", "sum_losses"]  # kernels of `fit` that compile in a moment


def child(code, cache=None, path=None, environment=None, **options):
    """Run a child; the last line that it printed, and what it wrote to stderr."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("FASTMLP_CACHE", "COV", "PYTHONWARNINGS"))}
    env["PYTHONPATH"] = str(path or ROOT)
    if cache is not None:
        env["FASTMLP_CACHE_DIR"] = str(cache)
    env.update(environment or {})
    env = {k: v for k, v in env.items() if v is not None}
    command = [sys.executable, "-c", PRELUDE + code]
    result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, **options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1]), result.stderr


def files(cache):
    """{file name: (bytes, time of change)} of the kernels of the one stamp in this cache."""
    (folder,) = cache.iterdir()
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


FIRST = """
recorded = []
losses = fit()
from numba.core import event

class Recorder(event.Listener):
    def on_start(self, event): recorded.append(str(event.data))
    def on_end(self, event): pass

# Other widths, depths, batches, threads and layouts of X: all of it has been compiled by now.
with event.install_listener("numba:compile", Recorder()):
    fit(Dense(1), n_features=1)
    fit(Dense(100), ReLU(), Dense(33), ReLU(), Dense(17, use_bias=False), Dense(5), n=333, n_features=65, batch_size=7)
    fit(Dense(8), ReLU(), Dense(3), n_threads=3, batch_size=50, shuffle=False)
    X = np.asfortranarray(np.random.default_rng(0).normal(size=(80, 6)).astype(np.float32))
    X.flags.writeable = False
    for data in (X, X[::2], X[::-1]):
        Sequential(Dense(4), ReLU(), Dense(1)).fit(
            data, data[:, 0], loss="squared_error", optimizer=SGD(0.1), verbose=0, n_threads=2
        )
    of_architectures = list(recorded)
    from fastmlp import Tanh
    fit(Dense(2), Tanh(), Dense(1))
report(losses=losses, of_architectures=of_architectures, of_tanh=len(recorded))
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache that was empty before a child fitted: (folder, the child's report, its stderr)."""
    cache = tmp_path_factory.mktemp("cache") / "not there yet"
    return (cache, *child(FIRST, cache))


@pytest.fixture
def cache(filled, tmp_path):
    """A copy of the filled cache, to be harmed."""
    return Path(shutil.copytree(filled[0], tmp_path / "cache"))


def kernel(cache, name):
    (folder,) = cache.iterdir()
    return folder / f"{name}-float32.o"


def test_import_is_light():
    code = f"report(heavy=sorted({{m.split('.')[0] for m in sys.modules}} & set({HEAVY})))"
    before = "import fastmlp, fastmlp.layers, fastmlp.history, fastmlp.callbacks, fastmlp.sequential\n"
    before += "fastmlp.Sequential, fastmlp.EarlyStopping, fastmlp.Adam, fastmlp.load_model, fastmlp.DivergenceError\n"
    assert child(before + code)[0] == {"heavy": []}


def test_building_and_predicting_a_few_rows_is_light_too():
    code = "model = Sequential(Dense(5), ReLU(), Dense(2)).build(3); model.predict(np.zeros((4, 3))); model.summary()\n"
    assert child(code + f"report(heavy=sorted(set({HEAVY}) & set(sys.modules)))")[0] == {"heavy": []}


def test_a_first_fit_says_that_it_compiles_and_fills_the_cache(filled):
    cache, _, stderr = filled
    assert stderr.count("compiling kernels") == 1 and str(cache) in stderr and len(stderr.splitlines()) == 1
    assert {f"{name}-float32.o" for name in SMALL} < set(files(cache))
    assert not [name for name in files(cache) if not name.endswith(".o")]  # no temporary files
    if os.name == "posix":
        (folder,) = cache.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_second_architecture_compiles_nothing_new(filled):
    assert filled[1]["of_architectures"] == []


def test_the_recorder_records(filled):
    """It saw the kernels of a new activation."""
    assert filled[1]["of_tanh"] >= 2


def test_a_second_process_compiles_nothing(filled):
    cache, first, _ = filled
    before = files(cache)
    second, stderr = child("report(losses=fit(), numba='numba' in sys.modules)", cache)
    assert second == {"losses": first["losses"], "numba": False} and stderr == ""
    assert files(cache) == before


def test_kernels_from_several_processes_work_together(cache):
    """Each process numbers its functions from 1: what one compiled must not be taken for what another did."""
    for name in SMALL[:2]:
        kernel(cache, name).unlink()
        child(f"from fastmlp.engine import jit; report(a=jit.address({name!r}, 'float32') > 0)", cache)
    again, stderr = child("report(losses=fit(), numba='numba' in sys.modules)", cache)
    assert again["numba"] is False and stderr == ""
    expected, _ = child("report(losses=fit())", cache)
    assert again["losses"] == expected["losses"]


def test_damaged_entries_are_compiled_again_with_a_warning(cache, filled):
    healthy = {name: content for name, (content, _) in files(cache).items()}
    truncated, garbage, empty, directory = (kernel(cache, name) for name in SMALL)
    flipped = kernel(cache, "gather.float32")
    truncated.write_bytes(truncated.read_bytes()[:-100])
    garbage.write_bytes(os.urandom(1000))
    empty.write_bytes(b"")
    directory.unlink()
    directory.mkdir()  # cannot be read, whoever we are
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)

    code = (
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    losses = fit()\n"
        "report(losses=losses, numba='numba' in sys.modules, caught=[str(w.message) for w in caught])\n"
    )
    report, _ = child(code, cache)
    assert report["losses"] == filled[1]["losses"] and report["numba"]
    for path in (truncated, garbage, empty, directory, flipped):
        (message,) = [message for message in report["caught"] if path.name in message]
        assert "compiling it again" in message
    assert len(report["caught"]) == 5
    directory.rmdir()
    child(code, cache)
    report, _ = child(code, cache)
    assert report == {"losses": filled[1]["losses"], "numba": False, "caught": []}
    assert set(files(cache)) == set(healthy)


def test_warnings_as_errors_do_not_reach_a_fit_through_a_sound_cache(filled):
    assert child("report(losses=fit())", filled[0], environment={"PYTHONWARNINGS": "error"})[0]


def test_code_that_changed_is_compiled_again(cache, tmp_path):
    """An upgrade: the same names, other sources, another folder."""
    copy = tmp_path / "upgraded"
    shutil.copytree(ROOT / "fastmlp", copy / "fastmlp", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "from fastmlp.engine import jit\n"
        "address = jit.address('relu.value', 'float32')\n"
        "report(numba='numba' in sys.modules, at=jit.__file__)\n"
    )
    report, _ = child(code, cache, copy, cwd=tmp_path)
    assert report["at"].startswith(str(copy)) and not report["numba"]
    with open(copy / "fastmlp" / "engine" / "kernels.py", "a", encoding="utf-8") as file:
        file.write("# changed\n")
    report, _ = child(code, cache, copy, cwd=tmp_path)
    assert report["numba"] and len(list(cache.iterdir())) == 2
    report, _ = child(code, cache, copy, cwd=tmp_path)
    assert not report["numba"]
    # The old version, still used elsewhere, finds its own.
    assert not child(code, cache)[0]["numba"]


@pytest.mark.parametrize("other", [{}, {"NUMBA_CPU_NAME": "generic"}, {"FASTMLP_SIMD": "sse"}], ids=str)
def test_the_stamp_depends_on_the_processor_and_the_vectors(other, filled):
    code = "from fastmlp.engine import jit; report(stamp=jit.stamp())"
    (folder,) = filled[0].iterdir()
    assert (child(code, environment=other)[0]["stamp"] == folder.name.removeprefix("kernels-")) is not bool(other)


# Where nothing can be written. The kernels that take seconds come from the cache, the others then have none.
WITHOUT = """
import fastmlp.engine.jit as jit
from fastmlp.engine.kernels import KERNELS
(folder,) = os.listdir(os.environ["FASTMLP_CACHE_DIR"])
for file in os.listdir(os.path.join(os.environ["FASTMLP_CACHE_DIR"], folder)):
    name = file.removesuffix("-float32.o")
    if name not in %r:
        jit.address(name, "float32")
%s
report(losses=fit(), folder=str(jit.cache_folder()))
"""
BROKEN = {
    "a file in the way": "os.environ['FASTMLP_CACHE_DIR'] = os.devnull",
    "no home": "del os.environ['FASTMLP_CACHE_DIR']; os.environ.pop('XDG_CACHE_HOME', None); "
    "os.environ.update(HOME=os.devnull, LOCALAPPDATA=os.devnull)",
}


@pytest.mark.skipif(sys.platform == "win32", reason="homes are found otherwise")
@pytest.mark.parametrize("breaking", BROKEN.values(), ids=BROKEN)
def test_without_a_folder_each_process_compiles(breaking, filled):
    report, stderr = child(WITHOUT % (SMALL, breaking), filled[0])
    assert report == {"losses": filled[1]["losses"], "folder": "None"}
    assert "each process does, for " in stderr and os.devnull in stderr and "Traceback" not in stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals to oneself")
def test_ctrl_c_while_compiling(cache, filled):
    """It may wait for the kernel to be done, but it is not lost, and what is half done does no harm later."""
    kernel(cache, "sgd").unlink()
    code = (
        "import signal, threading\n"
        "threading.Timer(0.15, signal.raise_signal, [signal.SIGINT]).start()\n"
        "try:\n"
        "    while True: fit()\n"
        "except KeyboardInterrupt: caught = True\n"
        "report(caught=caught, losses=fit())\n"
    )
    for _ in range(2):
        report, _ = child(code, cache)
        assert report == {"caught": True, "losses": filled[1]["losses"]}


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_read_only_cache_is_used_as_it_is(cache, filled):
    """Also one that lacks kernels: they live in memory. As root, who could write, the child gives up its rights."""
    kernel(cache, "sgd").unlink()
    before = set(files(cache))
    (folder,) = cache.iterdir()
    for path in folder.iterdir():
        path.chmod(0o444)
    for path in (folder, cache):
        path.chmod(0o555)
    parents = [path for path in cache.parents if path.stat().st_uid == os.getuid() and path.stat().st_mode & 0o077 == 0]
    modes = {path: path.stat().st_mode for path in parents if os.getuid() == 0}
    # Compiled while it may still read everything: Numba imports as it goes.
    drop = (
        "cache, os.environ['FASTMLP_CACHE_DIR'] = os.environ['FASTMLP_CACHE_DIR'], os.devnull\n"
        "jit.address('sgd', 'float64')\n"
        "os.environ['FASTMLP_CACHE_DIR'] = cache\n"
        "import importlib, pkgutil, fastmlp\n"  # which may lie where only root reads
        "for m in pkgutil.walk_packages(fastmlp.__path__, 'fastmlp.'):\n"
        "    m.name.endswith('__main__') or importlib.import_module(m.name)\n"
        "if os.getuid() == 0: os.setuid(65534)"
    )
    try:
        for path in modes:
            path.chmod(0o711)
        report, _ = child(WITHOUT % (["sgd"], drop), cache)
    finally:
        for path, mode in modes.items():
            path.chmod(stat.S_IMODE(mode))
        for path in (cache, folder):
            path.chmod(0o755)
    assert report["losses"] == filled[1]["losses"]
    assert set(files(cache)) == before


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
@pytest.mark.parametrize("mode, trusted", [(0o700, True), (0o755, True), (0o775, False), (0o777, False)], ids=oct)
def test_a_folder_that_others_can_write_to_is_not_trusted(mode, trusted, cache):
    """Machine code from there would run with the rights of whoever fits."""
    (folder,) = cache.iterdir()
    folder.chmod(mode)
    kernel(cache, "sgd").unlink()
    code = "from fastmlp.engine import jit; jit.address('sgd', 'float32'); report(folder=str(jit.cache_folder()))"
    report, stderr = child(code, cache)
    assert report["folder"] == (str(folder) if trusted else "None")
    assert (f"each process does, for others may write to {folder}" in stderr) != trusted


@pytest.mark.skipif(sys.platform == "win32" or os.getuid() != 0, reason="the rights of another user")
def test_what_root_has_compiled_serves_others(tmp_path, filled):
    """As in an image that is built by root and run by somebody else; who lacks a kernel is told why it is not kept."""
    cache = tmp_path / "cache"
    child("report(losses=fit())", cache)
    modes = [path.stat().st_mode for path in (*cache.iterdir(), *next(cache.iterdir()).iterdir())]
    assert {stat.S_IMODE(mode) for mode in modes} == {0o755, 0o644}
    parents = [path for path in cache.parents if path.stat().st_mode & 0o011 != 0o011]
    before = {path: path.stat().st_mode for path in parents}
    drop = (
        "import importlib, pkgutil, fastmlp, fastmlp.engine.jit as jit\n"
        "for m in pkgutil.walk_packages(fastmlp.__path__, 'fastmlp.'):\n"
        "    m.name.endswith('__main__') or importlib.import_module(m.name)\n"
        "jit.stamp(); jit.address('sgd', 'float64')\n"  # Numba imports as it goes
        "os.setuid(65534); jit._announced.clear()\n"
        "losses = fit()\n"
        "jit.address('adamax', 'float64')\n"
        "report(losses=losses)\n"
    )
    try:
        for path in parents:
            path.chmod(0o711)
        report, stderr = child(drop, cache)
    finally:
        for path, mode in before.items():
            path.chmod(stat.S_IMODE(mode))
    assert report["losses"] == filled[1]["losses"]
    assert stderr.count("fastmlp: ") == 2 and "which has not all of it, cannot be written" in stderr


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX file descriptors")
@pytest.mark.parametrize("deaf", ["sys.stderr = None", "sys.stderr.close()", "os.dup2(os.open('/dev/full', 1), 2)"])
def test_the_notice_reaches_nobody_or_stderr(deaf, cache, filled):
    """Not stdout, which is where `print` goes without a stderr, nor the fit, as an error."""
    kernel(cache, "sgd").unlink()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "FASTMLP_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", f"{PRELUDE}{deaf}\nreport(losses=fit())"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env, timeout=300)
    assert result.returncode in (0, 120)  # 120: what Python itself says of a stderr that it cannot flush
    assert json.loads(result.stdout)["losses"] == filled[1]["losses"]  # all of it


def test_a_package_in_an_archive_knows_its_sources(tmp_path):
    """So that a cache that another build has filled is not taken; where there are no files, nothing is kept."""
    seen = []
    for edited in (False, True, False):
        path = tmp_path / f"{len(seen)}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in (ROOT / "fastmlp").rglob("*.py"):
                text = file.read_text(encoding="utf-8")
                archive.writestr(str(file.relative_to(ROOT)), text + "# edited\n" * (edited and file.name == "rows.py"))
        code = "from fastmlp.engine import jit; report(sources=jit.SOURCES, folder=str(jit.cache_folder()))"
        report, _ = child(code, tmp_path / "cache", path, cwd=tmp_path)  # not where the package lies
        seen.append(report)
    assert seen[0] == seen[2] != seen[1] and all(report["sources"] for report in seen)
    code = "from fastmlp.engine import jit; jit.SOURCES = None; report(why=jit._cache_folder(None))"
    report, _ = child(code, tmp_path / "cache")
    assert report["why"][0] is None and "cannot be read" in report["why"][1]


def test_folders_of_old_versions_are_removed(tmp_path):
    """Where nothing was added for months, when a new one is made; nothing else in the folder is touched."""
    names = ["kernels-old", "kernels-recent", "old notes"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    for name in ("kernels-old", "old notes"):
        os.utime(tmp_path / name, (1e9, 1e9))
    report, _ = child("from fastmlp.engine import jit; report(folder=str(jit.cache_folder()))", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[1:], Path(report["folder"]).name])


def test_a_folder_in_use_is_not_old(cache, filled):
    (folder,) = cache.iterdir()
    os.utime(folder, (1e9, 1e9))
    child("report(losses=fit())", cache)
    assert folder.stat().st_mtime > time.time() - 600


def test_a_full_disk_does_not_reach_the_fit(cache, filled):
    full = (
        "def full(*_, **__): raise OSError(28, 'No space left on device')\n"
        "jit.tempfile.mkstemp = full\n"
        f"for name in {SMALL}: os.unlink(jit.cache_folder() / (name + '-float32.o'))"
    )
    report, stderr = child(WITHOUT % (SMALL, full), cache)
    assert report["losses"] == filled[1]["losses"]
    assert stderr.count("cannot be kept in") == 1 and "No space left" in stderr


def test_several_processes_may_fill_the_cache_at_once(cache, filled):
    kernel(cache, SMALL[0]).unlink()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "FASTMLP_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", PRELUDE + "report(losses=fit())"]
    children = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in children:
        with process:
            assert json.loads(process.stdout.read())["losses"] == filled[1]["losses"]
        assert process.returncode == 0
    assert {f"{name}-float32.o" for name in SMALL} < set(files(cache))
    assert all(name.endswith(".o") for name in files(cache))


# Several processes that compile. `SECONDS` is what is worth one: with less of it these kernels of a moment are.
SHARED = """
from fastmlp.engine import compiling, jit
compiling.SECONDS, compiling.PATIENCE = 0.4, 100
started, compiled, start, compile_here = [], [], compiling._child, jit._compile
def _child():
    started.append(start())
    return started[-1]
def _compile(name, *arguments):
    compiled.append(name)
    return compile_here(name, *arguments)
compiling._child, jit._compile = _child, _compile
def forbidden(*_, **__):
    raise PermissionError("no processes here")
"""
FAILING = {
    "dies": "compiling._CHILD = 'raise SystemExit(1)'",
    "hangs": "compiling._CHILD, compiling.PATIENCE = 'import time; time.sleep(1000)', -1e9",
    "lies": "compiling._CHILD = 'import sys; sys.stdin.readline(); print()'",
    "has another stamp": "compiling._CHILD = 'import os; os.environ[`FASTMLP_SIMD`] = `sse`; '.replace('`', '\"')"
    " + compiling._CHILD",
    "cannot start": "compiling.subprocess.Popen = forbidden",
    "no threads": "from types import SimpleNamespace\n"
    'def no_thread(*_, **__): raise RuntimeError("can\'t start new thread")\n'
    "thread = SimpleNamespace(start=no_thread)\n"
    "compiling.threading = SimpleNamespace(Thread=lambda *_, **__: thread)",
}


@pytest.fixture
def lacking(cache):
    """A cache without the kernels of a moment."""
    for name in SMALL:
        kernel(cache, name).unlink()
    return cache


several = {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": None}
needs_two_cores = pytest.mark.skipif(usable_cores() < 2, reason="one core: nothing is shared out")


@needs_two_cores
def test_children_compile_too(lacking, filled):
    code = SHARED + "losses = fit()\nreport(losses=losses, here=compiled, codes=[c.returncode for c in started])"
    result, stderr = child(code, lacking, environment=several)
    assert result["losses"] == filled[1]["losses"]
    assert len(result["codes"]) == 1 and result["codes"] != [None]  # it ended
    assert 0 < len(result["here"]) < len(SMALL)  # the other compiled the rest, under the same names
    assert set(files(lacking)) == set(files(filled[0]))
    assert stderr.count("compiling kernels") == len(stderr.splitlines()) == 1
    assert child("report(losses=fit(), numba='numba' in sys.modules)", lacking)[0] == {
        "losses": filled[1]["losses"],
        "numba": False,
    }


@needs_two_cores
@pytest.mark.parametrize("failing", FAILING.values(), ids=FAILING)
def test_children_that_fail_are_replaced(failing, lacking, filled):
    """By the process that needs the kernels; and none is left behind."""
    ended = "[c.wait(60) is not None for c in started if c]"
    code = f"{SHARED}{failing}\nlosses = fit()\nreport(losses=losses, here=len(compiled), ended={ended})"
    result, stderr = child(code, lacking, environment=several)
    assert result["losses"] == filled[1]["losses"] and "Traceback" not in stderr
    assert result["here"] == len(SMALL) and result["ended"] == [True] * ("forbidden" not in failing)
    assert set(files(lacking)) == set(files(filled[0]))


@needs_two_cores
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_ends_the_children_too(lacking, filled):
    """It reaches all processes of a terminal, here of a session."""
    env = {k: v for k, v in {**os.environ, **several, "PYTHONPATH": str(ROOT)}.items() if v is not None}
    env["FASTMLP_CACHE_DIR"] = str(lacking)
    command = [sys.executable, "-c", PRELUDE + SHARED + "fit()"]
    with subprocess.Popen(command, env=env, start_new_session=True, stderr=subprocess.PIPE, text=True) as process:
        assert "compiling" in process.stderr.readline()
        os.killpg(process.pid, signal.SIGINT)
        stderr = process.stderr.read()
    assert process.returncode != 0 and stderr.count("KeyboardInterrupt") == 1
    with pytest.raises(ProcessLookupError):  # nobody of that session is left: a child may take a moment to end
        for _ in range(600):
            os.killpg(process.pid, 0)
            time.sleep(0.1)
    assert child("report(losses=fit())", lacking)[0]["losses"] == filled[1]["losses"]


def test_settings_of_numba_have_kernels_of_their_own(monkeypatch):
    """Those that a process with `NUMBA_OPT=0` compiles are slow, and may have other bits."""
    stamps = {jit.stamp.__wrapped__()}
    for name in ("NUMBA_OPT", "NUMBA_LOOP_VECTORIZE"):
        monkeypatch.setenv(name, "0")
        stamps.add(jit.stamp.__wrapped__())
    assert len(stamps) == 3


def test_an_empty_name_of_the_cache_is_none(tmp_path, monkeypatch):
    """Not the current folder, where anybody could have put machine code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTMLP_CACHE_DIR", "")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "own"))
    assert jit.cache_folder().parent == tmp_path / "own"
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_where_no_children_are_started(tmp_path, monkeypatch):
    """Where they may run something else, where their work could not be found, and where there is one core."""
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path))
    assert compiling._may_start()
    for executable in ("/opt/blender/blender", "", None):
        monkeypatch.setattr(sys, "executable", executable)
        assert not compiling._may_start()
    monkeypatch.undo()
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert not compiling._may_start()
    monkeypatch.undo()
    monkeypatch.setenv("FASTMLP_CACHE_DIR", os.devnull)
    assert not compiling._may_start()


@needs_two_cores
def test_children_import_nothing_from_the_current_folder(lacking, filled, tmp_path):
    """Which `python script.py` does not look into, either."""
    folder, script = tmp_path / "downloads", tmp_path / "script.py"
    folder.mkdir()
    for name in ("json", "signal", "subprocess", "numpy", "numba", "fastmlp"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()")
    script.write_text(PRELUDE + SHARED + "losses = fit(); report(losses=losses, here=len(compiled))")
    environment = {k: v for k, v in {**os.environ, **several, "PYTHONPATH": str(ROOT)}.items() if v is not None}
    environment["FASTMLP_CACHE_DIR"] = str(lacking)
    done = subprocess.run(
        [sys.executable, script], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    result = json.loads(done.stdout)
    assert result["losses"] == filled[1]["losses"] and result["here"] < len(SMALL)
    assert not (tmp_path / "imported").exists()


WORKER = """
from multiprocessing import get_context
def work(_):
    fit()
    return len(started)
with get_context("fork").Pool(1) as pool:
    report(started=pool.map(work, [0]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_worker_of_many_compiles_alone(lacking):
    assert child(SHARED + WORKER, lacking, environment=several)[0] == {"started": [0]}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_fork_while_another_thread_compiles(lacking, filled):
    """The child finds no lock that nobody will open."""
    code = (
        "import threading\n"
        "from fastmlp.engine import jit\n"
        "thread = threading.Thread(target=lambda: [jit.address(name, 'float64') for name in ('relu.value', 'adam')])\n"
        "thread.start()\n"
        "while jit.lock().acquire(blocking=False): jit.lock().release()\n"  # until the thread has it
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    fit()\n"
        "    os._exit(7)\n"
        "thread.join()\n"
        "report(status=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), losses=fit())\n"
    )
    result, _ = child(code, lacking, environment={"OMP_NUM_THREADS": "1"})
    assert result == {"status": 7, "losses": filled[1]["losses"]}


def test_one_core_compiles_alone(lacking):
    code = SHARED + "fit(); report(started=started, here=len(compiled))"
    assert child(code, lacking, environment={**several, "OMP_NUM_THREADS": "1"})[0] == {
        "started": [],
        "here": len(SMALL),
    }
