"""timm's VisionTransformer as a frozen encoder. Shape legend: B batch, N tokens, d width."""

from timm.models import VisionTransformer
from torch import Tensor

from epic_pl.errors import EncoderError
from epic_pl.nn.encoders.base import Encoder, Pooling


class TimmViTEncoder(Encoder):
    """Any ``timm.models.VisionTransformer``: ViT, DeiT-3, DINO, DINOv2, AugReg, SigLIP, ...

    Args:
        model: built without a classifier (``num_classes=0``).
        pooling: "cls" is the class token, "mean" the mean of the patches, "auto" timm's own pool.

    Raises:
        EncoderError: if "cls" is asked of a model that has no class token.
    """

    model: VisionTransformer

    def __init__(self, model: VisionTransformer, pooling: Pooling = "auto") -> None:
        super().__init__(model, model.embed_dim, len(model.blocks), pooling)
        if pooling == "cls" and model.cls_token is None:
            raise EncoderError("This ViT has no class token: set image_pooling to mean or auto.")

    def embed(self, inputs: Tensor) -> Tensor:
        """Pictures ``(B, 3, H, W)`` to tokens ``(B, N, d)``: class, registers, patches."""
        model = self.model
        tokens: Tensor = model.norm_pre(
            model.patch_drop(model._pos_embed(model.patch_embed(inputs)))
        )
        return tokens

    def _layer(self, index: int, tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
        outputs: Tensor = self.model.blocks[index](tokens, attn_mask=attention_mask)
        return outputs

    def pool(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Final norm and pooling, ``(B, d)``; a picture's tokens are all there or none is."""
        model = self.model
        pool_type = {"auto": None, "cls": "token", "mean": "avg"}[self.pooling]
        pooled: Tensor = model.fc_norm(model.pool(model.norm(tokens), pool_type=pool_type))
        return pooled
