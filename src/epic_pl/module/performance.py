"""What makes a module faster or smaller and leaves what it learns as it is."""

import lightning as L
import torch

from epic_pl.module.compilation import check_compiler, is_compiled
from epic_pl.nn.base import DualEncoder
from epic_pl.nn.precision import DTYPES, EncoderPrecision, check_precision


class Performance(L.LightningModule):
    """The part of :class:`epic_pl.module.EPICModule` that docs/performance_options.md describes."""

    model: DualEncoder
    _encoder_precision: EncoderPrecision = "same"
    _compile = False

    def speed_up(
        self, encoder_precision: EncoderPrecision, checkpoint_layers: bool, compile: bool
    ) -> None:
        """Set the options on the model; what needs to know the device waits for :meth:`setup`."""
        self._encoder_precision, self._compile = encoder_precision, compile
        for tower in (self.model.image_tower, self.model.text_tower):
            tower.precision = DTYPES[encoder_precision]
            tower.encoder.checkpoint_layers = checkpoint_layers

    @property
    def reads_in_place(self) -> bool:
        """Whether the model may be given fields of a feature cache that are not gathered."""
        return self.device.type == "cpu" and not self._compile

    def check_device(self, device: torch.device) -> None:
        """Look whether the encoders can be run on a device in the precision that is asked for.

        Raises:
            ConfigError: if they cannot.
        """
        check_precision(self._encoder_precision, device.type)

    def setup(self, stage: str) -> None:
        """Look whether the device can do what is asked, and compile at a run's start.

        Raises:
            ConfigError: if it cannot.
        """
        device = self.trainer.strategy.root_device
        self.check_device(device)
        if self._compile and not is_compiled(self.model):
            check_compiler(device)
            self.model.compile()  # in place, so that names in checkpoints stay
