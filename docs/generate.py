"""Write the pages activations, losses, optimizers, schedules, layers, initializers and callbacks from the docstrings.

    python docs/generate.py

A row of a table is a declaration's docstring: the formula begins its summary, the derivative is what follows f'(z) = or
dl/dz =, "When to use:" begins a paragraph, the source is its "References" or who is cited with a year.
"""

import doctest
import inspect
import re
from pathlib import Path

from fastmlp import initializers
from fastmlp.activations import ACTIVATIONS
from fastmlp.backup import BackupAndRestore
from fastmlp.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    GradientNorms,
    Metrics,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TimeBudget,
    TrainingAccuracy,
)
from fastmlp.initializers import INITIALIZERS, Constant, Initializer
from fastmlp.layers import LAYERS, PReLU, pre_norm_block
from fastmlp.losses import LOSSES
from fastmlp.optimizers import OF_ALL_ROWS, OPTIMIZERS
from fastmlp.schedules import SCHEDULES, Schedule

CALLBACKS = (
    EarlyStopping,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TimeBudget,
    TrainingAccuracy,
    Metrics,
    GradientNorms,
    CSVLogger,
    BackupAndRestore,
)
FOLDER = Path(__file__).parent
CITED = r"[A-Z][\w-]+(?: et al\.|(?:, [A-Z][\w-]+)* and [A-Z][\w-]+)?, (?:19|20)\d\d"
DERIVATIVE = r"(?:f'|dl(?:_i)?/dz)\S*(?: =|:) .+?(?=[.;] |[.;]?$| \([A-Z])"


def parts(cls) -> dict[str, str]:
    """The summary, the derivative, "When to use" and the source in the docstring of a class; "" for what it lacks."""
    text, *sections = re.split(r"\n+(?=[A-Z]\w+\n-+\n|>>> )", inspect.getdoc(cls))
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    use = [p.removeprefix("When to use: ") for p in paragraphs if p.startswith("When to use: ")]
    about = " ".join(p for p in paragraphs if not p.startswith("When to use: "))
    references = [s.split("\n", 2)[2] for s in sections if s.startswith("References\n")]
    derivative = re.search(DERIVATIVE, about)
    return {
        "summary": re.sub(rf" \((?:{CITED}[^()]*)\)| {CITED}(?:; {CITED})*\.", "", paragraphs[0]),
        "derivative": derivative[0].split(" ", 1)[1].removeprefix("= ") if derivative else "",
        "use": " ".join(use),
        "source": " ".join(" ".join(references).split()) or "; ".join(re.findall(CITED, about)),
    }


def formula(summary: str) -> str:
    """The first sentence without the derivative."""
    return re.split(r"\. |[,;] f'|[;,] dl/dz|; Output", summary)[0].rstrip(".,;")


def signature(cls) -> str:
    """ "Huber(delta=1.0)": what a person sets."""
    words = []
    for p in inspect.signature(cls).parameters.values():
        if p.kind is p.KEYWORD_ONLY and not any(word.startswith("*") for word in words):
            words.append("*")
        words.append(("*" if p.kind is p.VAR_POSITIONAL else "") + p.name)
        words[-1] += "" if p.default is p.empty else f"={p.default!r}"
    return f"{cls.__name__}({', '.join(words)})"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; a bar in a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def text_of(cls) -> str:
    """The paragraphs of a docstring, without its sections."""
    return re.split(r"\n\n[A-Z]\w+\n-+\n", inspect.getdoc(cls))[0]


def example(cls) -> str:
    """The example of a docstring, to copy; what it prints are comments. Its lines stand as formatters want them."""
    text, before = "", ""
    for part in doctest.DocTestParser().get_examples(inspect.getdoc(cls)):
        kind = "block" if part.source.count("\n") > 1 else part.source.split()[0].replace("from", "import")
        if before:
            text += "\n\n" if "block" in (before, kind) else "\n" * (before == "import" and kind != before)
        text += part.source + "".join(f"# {line}\n" for line in part.want.splitlines())
        before = kind
    return f"```python\n{text}```"


def activations() -> str:
    rows = []
    for name, cls in ACTIVATIONS.items():
        p = parts(cls)
        initializer = code(cls().default_initializer)
        rows.append(
            [code(signature(cls)), code(name), code(formula(p["summary"])), code(p["derivative"])]
            + [initializer, p["use"], p["source"]]
        )
    return table(["class", "name", "formula", "derivative", "initialiser", "when to use", "source"], rows)


def losses() -> str:
    rows = []
    for name, cls in LOSSES.items():
        p = parts(cls)
        rows.append(
            [code(signature(cls)), code(name), code(formula(p["summary"])), code(p["derivative"])]
            + [cls.targets, p["use"], p["source"]]
        )
    return table(["class", "name", "formula", "derivative", "targets", "when to use", "source"], rows)


def optimizers() -> str:
    rows = [
        [code(signature(cls)), code(name), p["summary"], p["use"], p["source"]]
        for name, cls in (OPTIMIZERS | OF_ALL_ROWS).items()
        for p in [parts(cls)]
    ]
    return table(["class", "name", "rule", "when to use", "source"], rows)


def schedules() -> str:
    rows = [
        [code(signature(cls)), p["summary"], p["use"], p["source"]] for cls in SCHEDULES.values() for p in [parts(cls)]
    ]
    mine = f"## Your own\n\nA class derived from `fastmlp.schedules.Schedule`. {text_of(Schedule)}"
    return "\n\n".join([table(["class", "rate", "when to use", "source"], rows), mine, example(Schedule)])


def layers() -> str:
    others = [cls for cls in LAYERS.values() if cls not in ACTIVATIONS.values()]
    rows = [[code(signature(cls)), p["summary"], p["use"], p["source"]] for cls in others for p in [parts(cls)]]
    return table(["class", "what it does", "when to use", "source"], rows)


def callbacks() -> str:
    """The built-in ones, and what the base class says to those who write one."""
    rows = [[code(signature(cls)), p["summary"]] for cls in CALLBACKS for p in [parts(cls)]]
    hooks = [name for name, f in vars(Callback).items() if inspect.isfunction(f)]
    own = [
        [code(f"{name}({', '.join(list(inspect.signature(getattr(Callback, name)).parameters)[1:])})"), p["summary"]]
        for name in hooks
        for p in [parts(getattr(Callback, name))]
    ]
    text = re.split(r"\n\nExamples\n", inspect.getdoc(Callback))[0]
    mine = f"## Your own\n\nA class derived from `Callback`. {text}\n\n{table(['method', 'called'], own)}"
    return f"{table(['class', 'what it does'], rows)}\n\n{mine}"


def initializers_() -> str:
    """The module's own table, and for whom each is the default; given numbers, and what one of a user's own is."""
    lines = [line.strip("| ") for line in initializers.__doc__.splitlines() if line.startswith("|")]
    header, _, *rows = [re.split(r"\s*\|\s*", line) for line in lines]
    names = [row[0].split(", ") for row in rows]
    missing = set(INITIALIZERS) - {name for row in names for name in row}
    if missing:
        raise ValueError(f"the table in fastmlp/initializers.py has no row for {sorted(missing)}.")
    behind = (*ACTIVATIONS.values(), PReLU)
    for row, known in zip(rows, names, strict=True):
        row += [""] * (len(header) - len(row))
        row.append(", ".join(cls.__name__ for cls in behind if cls().default_initializer in known))
    given = f"## Given numbers\n\n`Constant(value)`: {text_of(Constant)}\n\n{example(Constant)}"
    mine = f"## Your own\n\nA class derived from `fastmlp.initializers.Initializer`. {text_of(Initializer)}"
    return "\n\n".join([table([*header, "default before"], rows), given, mine, example(Initializer)])


PAGES = {
    "activations": (
        activations,
        """Layers between the `Dense` layers of a `Sequential`, as `ReLU()`; the estimators take the name. z is the
input, a the output; where the derivative is one of a, the engine keeps one buffer.""",
    ),
    "losses": (
        losses,
        """`Sequential.fit(loss=...)` takes the name or the object. l is the loss of a row, z its logits, y its targets;
the loss of a batch is the (weighted) mean over its rows. The losses that rank take `groups`, the query of each row;
their loss is the mean over queries.""",
    ),
    "optimizers": (
        optimizers,
        """`Sequential.fit(optimizer=...)` takes the name or the object. p is a parameter and W a weight, g its
gradient, t the number of the step, lr the learning rate: a number or a [schedule](schedules.md). Each but `LBFGS` also
takes `clip_value`, a bound of each component of g; `clip_norm`, a bound of the norm of all gradients together; and
`ema_decay`, with which the fit ends with a moving average of the parameters.""",
    ),
    "schedules": (
        schedules,
        """An optimiser takes one as its `learning_rate`: `Adam(CosineDecay(1e-3, epochs=20))`. t counts steps from 0; L
is the length in steps, given as `steps` or `epochs`. `momentum`, `beta_1`, `beta_2`, `weight_decay`, `clip_value` and
`clip_norm` of an optimiser and the rate of a `Dropout` take one, too: its "learning rate" is that number then.""",
    ),
    "layers": (
        layers,
        "What a `Sequential` is made of, besides the [activations](activations.md). "
        f"{code(signature(pre_norm_block))} is a `Residual` as transformers have it.",
    ),
    "initializers": (
        initializers_,
        """For `Dense(kernel_initializer=..., bias_initializer=...)`. "auto" is what suits the activation behind the
layer; without one it is "glorot_uniform". The objects are in `fastmlp.initializers`, where `Scaled` multiplies any of
them (`fastmlp.Constant` is a schedule).""",
    ),
    "callbacks": (
        callbacks,
        "`Sequential.fit(callbacks=[...])` calls them between epochs, in their order.",
    ),
}


def page(name: str) -> str:
    """A page's Markdown."""
    write, introduction = PAGES[name]
    notice = "<!-- Written by docs/generate.py from the declarations: change them, then run it. -->"
    return f"# {name.capitalize()}\n\n{notice}\n\n{introduction}\n\n{write()}\n"


if __name__ == "__main__":
    for name in PAGES:
        (FOLDER / f"{name}.md").write_text(page(name), encoding="utf-8")
