"""The names of the package for editors and type checkers, which do not see `__getattr__` at work."""

from .activations import (
    ELU as ELU,
    GELU as GELU,
    SELU as SELU,
    CustomActivation as CustomActivation,
    GELUTanh as GELUTanh,
    HardThreshold as HardThreshold,
    Identity as Identity,
    LeakyReLU as LeakyReLU,
    Logistic as Logistic,
    Mish as Mish,
    ReLU as ReLU,
    SiLU as SiLU,
    Sine as Sine,
    Softplus as Softplus,
    Tanh as Tanh,
)
from .augmentation import CutMix as CutMix, GaussianNoise as GaussianNoise, MixUp as MixUp, RandomAffine as RandomAffine
from .backup import BackupAndRestore as BackupAndRestore
from .callbacks import (
    Callback as Callback,
    CSVLogger as CSVLogger,
    EarlyStopping as EarlyStopping,
    GradientNorms as GradientNorms,
    Metrics as Metrics,
    ModelCheckpoint as ModelCheckpoint,
    ReduceLROnPlateau as ReduceLROnPlateau,
    TimeBudget as TimeBudget,
    TrainingAccuracy as TrainingAccuracy,
)
from .diagnosis import diagnose as diagnose, diagnose_history as diagnose_history
from .embedding import Embedding as Embedding
from .errors import DivergenceError as DivergenceError
from .estimators import (
    MLPClassifier as MLPClassifier,
    MLPRegressor as MLPRegressor,
    Perceptron as Perceptron,
    PiecewiseLinearEncoder as PiecewiseLinearEncoder,
    SKLearnClassifier as SKLearnClassifier,
    SKLearnRegressor as SKLearnRegressor,
)
from .history import History as History
from .layers import (
    GEGLU as GEGLU,
    GLU as GLU,
    ActivityRegularization as ActivityRegularization,
    AlphaDropout as AlphaDropout,
    Dense as Dense,
    Dropout as Dropout,
    Maxout as Maxout,
    PReLU as PReLU,
    Rescaling as Rescaling,
    Residual as Residual,
    Softmax as Softmax,
    SwiGLU as SwiGLU,
    pre_norm_block as pre_norm_block,
)
from .losses import (
    AbsoluteError as AbsoluteError,
    BinaryCrossEntropy as BinaryCrossEntropy,
    Contrastive as Contrastive,
    CustomLoss as CustomLoss,
    Focal as Focal,
    Gaussian as Gaussian,
    GivenGradient as GivenGradient,
    Hinge as Hinge,
    Huber as Huber,
    ListNet as ListNet,
    NegativeBinomial as NegativeBinomial,
    Ordinal as Ordinal,
    Poisson as Poisson,
    QuantileLoss as QuantileLoss,
    RankNet as RankNet,
    SoftmaxCrossEntropy as SoftmaxCrossEntropy,
    SoftmaxFocal as SoftmaxFocal,
    SquaredError as SquaredError,
    Triplet as Triplet,
)
from .normalization import (
    BatchNorm as BatchNorm,
    GroupNorm as GroupNorm,
    LayerNorm as LayerNorm,
    Normalization as Normalization,
    RMSNorm as RMSNorm,
)
from .onnx_export import export_onnx as export_onnx
from .optimizers import (
    LBFGS as LBFGS,
    SGD as SGD,
    AdaDelta as AdaDelta,
    AdaGrad as AdaGrad,
    Adam as Adam,
    AdaMax as AdaMax,
    AdamW as AdamW,
    AMSGrad as AMSGrad,
    Lion as Lion,
    NAdam as NAdam,
    RMSprop as RMSprop,
    Rprop as Rprop,
)
from .rate_test import find_learning_rate as find_learning_rate
from .schedules import (
    Constant as Constant,
    CosineDecay as CosineDecay,
    CosineRestarts as CosineRestarts,
    Cyclic as Cyclic,
    ExponentialDecay as ExponentialDecay,
    InverseScaling as InverseScaling,
    OneCycle as OneCycle,
    PiecewiseConstantDecay as PiecewiseConstantDecay,
    PolynomialDecay as PolynomialDecay,
    StepDecay as StepDecay,
    Warmup as Warmup,
)
from .sequential import Sequential as Sequential
from .serialization import load_model as load_model, save_model as save_model
from .table_model import TableModel as TableModel

__version__: str
__all__: list[str]
