"""All kernels by name: `KERNELS[name](dtype, simd)` builds one for a dtype and a vector unit.

Activations, optimisers and conversions are families whose names carry what differs ("relu.value", "gather.uint8").
Records are described in `records.py`. No kernel allocates or raises.
"""

from __future__ import annotations

from ..activations import ACTIVATIONS
from ..losses import LOSSES
from . import custom
from .activity import activity_gradient, activity_penalty
from .augmentation_kernels import gaussian_noise, mix_kernel, random_affine
from .batch_loss_kernels import collect, contrastive, listnet, ranknet, triplet_choose, triplet_gradient
from .column_kernels import column_bias_gradient, column_product, few_weight_gradient
from .dropout import KINDS, drop_rows, dropout_kernel
from .elementwise import (
    PAIRS,
    activation_derivative,
    activation_value,
    elementwise,
    pair_kernel,
    prelu,
    prelu_gradient,
)
from .embedding_kernels import embedding, embedding_codes, embedding_gradient
from .loop import exchange, run, serve
from .loss_kernels import row_kernel, separable_kernel, softmax_kernel, sum_losses
from .norm_kernels import (
    batch_norm,
    batch_norm_gradient,
    batch_norm_running,
    row_norm,
    row_norm_gradient,
    running_norm_kernel,
)
from .optimizer_kernels import (
    average,
    clip,
    decay,
    l1_l2_penalty,
    l2_penalty,
    store_gradient,
    update_kernel,
)
from .permutation import permutation
from .products import bias_gradient, product, product_panels, weight_gradient
from .rows import finite_kernel, gather_csr_kernel, gather_kernel, scatter
from .rules import RULES
from .softmax_layer import softmax_backward, softmax_forward
from .sparse_kernels import batch_columns_kernel, sparse_gradient, sparse_product_kernel
from .update_kernels import clip_norm, max_norm, square_sums, update

_OF_CSR = {
    "gather": gather_csr_kernel,
    "sparse_product": sparse_product_kernel,
    "batch_columns": batch_columns_kernel,
}
KERNELS = {
    "product": product,
    "product_panels": product_panels,
    "product.column": column_product,
    "weight_gradient": weight_gradient,
    "weight_gradient.few": few_weight_gradient,
    "bias_gradient": bias_gradient,
    "bias_gradient.column": column_bias_gradient,
    "elementwise": elementwise,
    **{name: pair_kernel(function) for name, function in PAIRS.items()},
    "prelu": prelu,
    "prelu.gradient": prelu_gradient,
    **{kind: dropout_kernel(kind) for kind in KINDS},
    "gaussian_noise": gaussian_noise,
    "random_affine": random_affine,
    "mixup": mix_kernel(cut=False),
    "cutmix": mix_kernel(cut=True),
    "drop_rows": drop_rows,
    "row_norm": row_norm,
    "row_norm.gradient": row_norm_gradient,
    "batch_norm": batch_norm,
    "batch_norm.gradient": batch_norm_gradient,
    "batch_norm.running": batch_norm_running,
    "batch_norm.predict": running_norm_kernel(backward=False),
    "batch_norm.predict.gradient": running_norm_kernel(backward=True),
    "l2": l2_penalty,
    "l1_l2": l1_l2_penalty,
    "clip": clip,
    "decay": decay,
    "average": average,
    "square_sums": square_sums,
    "clip_norm": clip_norm,
    "update": update,
    "max_norm": max_norm,
    "store_gradient": store_gradient,
    **{name: update_kernel(rule) for name, rule in RULES.items()},
    "scatter": scatter,
    "sum_losses": sum_losses,
    "permutation": permutation,
    "softmax_cross_entropy.codes": softmax_kernel(codes=True),
    "softmax_cross_entropy.dense": softmax_kernel(codes=False),
    "softmax.forward": softmax_forward,
    "softmax.backward": softmax_backward,
    "activity_penalty": activity_penalty,
    "activity_gradient": activity_gradient,
    "collect": collect,
    "contrastive": contrastive,
    "triplet.choose": triplet_choose,
    "triplet.gradient": triplet_gradient,
    "ranknet": ranknet,
    "listnet": listnet,
    "sparse_gradient": sparse_gradient,
    "embedding": embedding,
    "embedding.gradient": embedding_gradient,
    "embedding.codes": embedding_codes,
    "run": run,
    "serve": serve,
    "exchange": exchange,
    **{f"gather.{t}": gather_kernel(t) for t in ("float32", "float64", "uint8")},
    **{f"finite.{t}": finite_kernel(t) for t in ("float32", "float64")},
    **{
        f"{family}.csr.{t}.{i}": kernel(t, i)
        for family, kernel in _OF_CSR.items()
        for t in ("float32", "float64")
        for i in ("int32", "int64")
    },
}
for _name, _declaration in ACTIVATIONS.items():
    KERNELS[f"{_name}.value"] = activation_value(_declaration)
    KERNELS[f"{_name}.apart"] = activation_value(_declaration, apart=True)
    KERNELS[f"{_name}.derivative"] = activation_derivative(_declaration)
for _name, _declaration in LOSSES.items():
    if _declaration.term is not None:
        KERNELS[f"{_name}.dense"] = separable_kernel(_declaration)
    elif _declaration.row is not None:
        KERNELS[f"{_name}.dense"] = row_kernel(_declaration)


def builder_of(name: str):
    """What builds the kernel of that name for a dtype and a vector unit."""
    return KERNELS[name] if name in KERNELS else custom.builder(name)
