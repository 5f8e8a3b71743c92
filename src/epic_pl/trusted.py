"""What a config may name with ``--trusted-only``: classes that run and upload nothing it says."""

from importlib import import_module

# single names, so that what a later Lightning adds is not allowed unseen; a package of ours: all
_LISTED = {
    "epic_pl.callbacks": "",
    "epic_pl.data": "",
    "lightning.pytorch.accelerators": "CPUAccelerator CUDAAccelerator MPSAccelerator",
    "lightning.pytorch.callbacks": "DeviceStatsMonitor EarlyStopping GradientAccumulationScheduler "
    "LearningRateMonitor ModelCheckpoint ModelSummary RichModelSummary RichProgressBar Timer "
    "TQDMProgressBar",
    "lightning.pytorch.loggers": "CSVLogger TensorBoardLogger",
    "lightning.pytorch.plugins": "DoublePrecision HalfPrecision MixedPrecision TorchSyncBatchNorm",
    "lightning.pytorch.plugins.environments": "LightningEnvironment SLURMEnvironment",
    "lightning.pytorch.profilers": "AdvancedProfiler PassThroughProfiler SimpleProfiler",
    "lightning.pytorch.strategies": "DDPStrategy ModelParallelStrategy SingleDeviceStrategy",
}
TRUSTED: dict[str, type] = {
    path: kind
    for package, names in _LISTED.items()
    for name in names.split() or import_module(package).__all__
    for kind in [getattr(import_module(package), name)]
    for path in (f"{package}.{name}", f"{kind.__module__}.{name}")
}
"""The classes by import path: that of their package, and that of their definition."""
DENIED = ["*", *(f"{p}.{name}" for p, k in TRUSTED.items() for name in {*dir(k), *dir(type(k))})]
"""All else, methods of these classes included: the parser goes by a path's longest entry."""
