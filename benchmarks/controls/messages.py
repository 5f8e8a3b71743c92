"""Control of EPIC: all of it but the messages."""

from dataclasses import dataclass
from typing import Any

from epic_pl.nn.epic import EPIC, EPICModel


class NoMessagesModel(EPICModel):
    """EPIC whose first hub compares, but whose messages stay zero, as ``V_m`` is not trained.

    The first prompts of the image are still means of the patches that match parts of the text.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        first: Any = self.hubs[0]
        for silent in (first.up_image, first.up_text, *self.hubs[1:]):
            silent.requires_grad_(False)


@dataclass(frozen=True)
class NoMessages(EPIC):
    """Options as in :class:`EPIC`."""

    model = NoMessagesModel
