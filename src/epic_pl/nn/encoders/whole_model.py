"""Models that run as a whole. Shape legend: B batch, N tokens, d width."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from epic_pl.nn.encoders.base import Encoder, Pooling, masked_mean
from epic_pl.nn.encoders.hf_transformer import config_entries, is_causal, last_visible
from epic_pl.nn.encoders.timm_vit import timm_entries
from epic_pl.utils.errors import EncoderError, raised_as

_NUM_LAYERS = 12  # any number: they do nothing, and methods count them from the last


class WholeModelEncoder(Encoder):
    """Any model of timm or transformers, for methods that put no prompts into it.

    Its tokens are the model's last ones. Those of an image follow its pooled features; the narrower
    of both are filled up with zeros.

    Args:
        model: the model.
        pooling: "auto" is the model's own pooling of an image, and of a text the first token (in a
            causal model the last); "mean" is the mean of patches or visible tokens.
        image_size: height and width of images in pixels; None is the model's own.
        **running: further arguments of :class:`~epic_pl.nn.encoders.base.Encoder`.

    Raises:
        EncoderError: if the model gives no such features.
    """

    model: Any
    problem = "Of timm's models only VisionTransformer and Eva are run layer by layer."

    def __init__(
        self, model: Any, pooling: Pooling = "auto", image_size: int | None = None, **running: Any
    ) -> None:
        super().__init__(model, 0, _NUM_LAYERS, pooling, **running)
        self._config: Any = getattr(model, "config", None)
        self.images = self._config is None or model.main_input_name == "pixel_values"
        self.num_prefix_tokens = int(self.images)
        if self.images and pooling == "cls":
            raise EncoderError("encoders.image.pooling cls needs a vision transformer: set auto.")
        problem = f"{type(model).__name__} gives no features"
        way_out = "Take a model of one image size (not NaFlex), or write its class: docs/extend.md."
        with raised_as(EncoderError, problem, way_out), torch.no_grad():
            if self.images:
                timm_config = getattr(model, "pretrained_cfg", {"input_size": [0]})
                own = timm_config["input_size"][-1] or model.config.image_size
                self._size: int = image_size or own
                if image_size and hasattr(model, "set_input_size"):
                    _ = self.fingerprint  # of weights before they are resampled
                    model.set_input_size(img_size=(image_size, image_size))
            inputs = self.example(1, 2, torch.Generator().manual_seed(0))
            self.width = self.embed(inputs).shape[2]
            self.causal = not self.images and is_causal(self.embed, inputs)

    def example(self, rows: int, tokens: int, generator: torch.Generator) -> Tensor:
        """Random token ids ``(B, N)``, or images ``(B, 3, H, W)``."""
        if self.images:
            return torch.randn(rows, 3, self._size, self._size, generator=generator)
        return torch.randint(self.model.config.vocab_size, (rows, tokens), generator=generator)

    def configuration(self) -> dict[str, Any]:
        """The class of the model, and options that outputs depend on."""
        known = config_entries(self._config) if self._config else timm_entries(self.model)
        return {"class": type(self.model).__name__, **known}

    def embed(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Outputs ``(B, N, d)`` of the model, of which the first of an image is pooled."""
        if not self.images:
            # a sample without visible tokens attends to all of them
            seen = None if mask is None else (mask | ~mask.any(dim=1, keepdim=True)).long()
            return cast(Tensor, self.model(input_ids=inputs, attention_mask=seen).last_hidden_state)
        pooled, patches = self._run_image(inputs)
        width = max(pooled.shape[1], patches.shape[2])
        joined = [pooled[:, None], patches]
        return torch.cat([pad(part, (0, width - part.shape[2])) for part in joined], dim=1)

    def _run_image(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features ``(B, d)`` and patches ``(B, N, d)``; their widths may differ."""
        model, first = self.model, getattr(self.model, "num_prefix_tokens", 0)
        if self._config is None:
            maps = model.forward_features(images)
            pooled = model.forward_head(maps, pre_logits=True)
        else:
            outputs = model(pixel_values=images)
            maps, pooled = outputs.last_hidden_state, getattr(outputs, "pooler_output", None)
            if maps.ndim == 3 and (patch := getattr(self._config, "patch_size", None)):
                first = max(0, maps.shape[1] - (images.shape[-1] // patch) ** 2)
        if maps.ndim == 4:
            last = str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC")
            maps = maps.flatten(1, 2) if last else maps.flatten(2).mT
        patches = maps[:, first:]
        if self.pooling == "mean" or pooled is None:
            pooled = patches.mean(dim=1)
        return pooled.flatten(1), patches

    def pool(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pooled output ``(B, d)``."""
        if not self.images and self.pooling == "mean":
            return masked_mean(tokens, mask)
        return last_visible(tokens, mask) if self.causal else tokens[:, 0]

    def _layer(self, index: int, tokens: Tensor, mask: Tensor | None, num_extra: int) -> Tensor:
        return tokens
