"""Ensemble: members of one or several methods that are trained, and answer, in one pass.

*Deep Ensembles*, arXiv 1612.01474: members differ in their initial weights and their dropout, and
the answer is the mean of their probabilities. Frozen features are computed once for all. Members of
one method are stacked: each trained tensor has them in its first axis, and :func:`torch.vmap` runs
the model over this axis, so a frozen layer reads its weights once for the prompts of all members.

Shape legend: B batch, C classes, M members.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.utils._pytree import tree_map

from epic_pl.nn.base import DualEncoder, Method
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.epic import EPIC
from epic_pl.nn.heads import HeadConfig, Output, TreesHead
from epic_pl.nn.heads.choice import PenaltySweep
from epic_pl.nn.pair import Pair
from epic_pl.nn.towers import Tower
from epic_pl.utils.errors import ConfigError
from epic_pl.utils.types import Batch, Task
from epic_pl.utils.validate import check_positive

_SIDES = "image_tower", "text_tower"


class EnsembleModel(DualEncoder):
    """Stacks of members on common towers.

    Args:
        encoders: the frozen image and text encoder.
        num_classes: number of classes C.
        method: options of the method.
        head: parts of the head, of which each method of the members may replace some.

    Raises:
        ConfigError: if a method trains inside the encoders, members read other layers, or layers
            with prompts are checkpointed.
    """

    def __init__(
        self, encoders: Pair[Encoder], num_classes: int, method: "Ensemble", head: HeadConfig
    ) -> None:
        groups = []
        for of in method.methods:
            first = of.build(encoders, num_classes, head)
            if not first.cache_levels:  # before another one changes the encoders
                raise ConfigError(
                    f"{type(of).__name__} cannot be a member of an Ensemble. Members share frozen "
                    f"encoders. {first.image_tower.not_stored_because} Take EPIC, Parts or "
                    "LateFusionMLP."
                )
            if first.image_tower.takes_prompts and encoders.image.checkpoint_layers:
                raise ConfigError(
                    "Members of an Ensemble pass the layers together, and torch.vmap cannot run "
                    "them again in a backward pass: set model.encoders.checkpoint_layers to false."
                )
            one = isinstance(first.head, TreesHead) or isinstance(first.head.choice, PenaltySweep)
            more = range(0 if one else method.members - 1)  # of one optimum, they would be alike
            groups.append([first, *(of.build(encoders, num_classes, head) for _ in more)])
        members = [member for group in groups for member in group]
        super().__init__(*(_common([getattr(m, side) for m in members]) for side in _SIDES))
        for member in members:
            for side in _SIDES:  # registered here alone, or a checkpoint would have them M times
                delattr(member, side)
                member.__dict__[side] = getattr(self, side)
        self.members = nn.ModuleList(map(stack, groups))
        # trees alone do not know which modality no training sample lacked
        heads = [each.head for each in self.stacks]
        self.__dict__["head"] = next((h for h in heads if not isinstance(h, TreesHead)), heads[0])

    @property
    def stacks(self) -> Sequence[DualEncoder]:
        """The stack of each method's members."""
        return list(self.members)  # type: ignore[arg-type]  # of a ModuleList

    def forward(self, batch: Batch) -> Output:
        """The mean answer, the outputs of all members, and the pooled features of the first."""
        shared: Batch = {**batch, "states": self.extract(batch, self.presence(batch))}
        stacks = [run_stack(each, shared) for each in self.stacks]
        answers = [mean_answer([member.logits for member in each], self.task) for each in stacks]
        members = [member for each in stacks for member in each]
        candidates = None
        if self.choices:
            given = [
                [m.logits[:, None] if m.candidates is None else m.candidates for m in each]
                for each in stacks
            ]
            candidates = torch.cat([mean_answer(each, self.task) for each in given], dim=1)
        logits = mean_answer(answers, self.task)
        return Output(logits, members[0].pooled, candidates=candidates, members=members)

    def choose(self, candidates: Tensor, labels: Tensor) -> Tensor:
        """Let validation choose for each method among its own candidates."""
        choices = [stack.head.choice for stack in self.stacks]
        numbers = [1 if each is None else each.number for each in choices]
        parts = zip(choices, torch.split(candidates, numbers, dim=1), strict=True)
        chosen = [
            part[:, 0] if choice is None else choice.choose(part, labels, self.task)
            for choice, part in parts
        ]
        return mean_answer(chosen, self.task)


@dataclass(frozen=True)
class Ensemble(Method):
    """Members that are trained together and answer with the mean of their probabilities.

    Each method counts as much as another, whatever the number of its members.

    Attributes:
        of: the method of the members with its options, or a list of methods.
        members: number of members of each method; they differ in their initial weights. Those of
            LinearProbe and Trees would be alike, so that these have one.

    Example:
        >>> model = Ensemble(EPIC(hub_width=8), members=3).build(encoders, num_classes=3)
        >>> output = model(batch)
        >>> output.logits.shape, len(output.members)
        (torch.Size([4, 3]), 3)
    """

    model = EnsembleModel
    space = "prompts.yaml"

    of: Method | list[Method] = EPIC()  # noqa: RUF009
    members: int = 5

    def __post_init__(self) -> None:
        check_positive(self, "members")
        if not self.methods or any(isinstance(of, Ensemble) for of in self.methods):
            raise ConfigError(
                f"model.method.of is {self.of}: name methods of single models, such as EPIC."
            )

    @property
    def methods(self) -> list[Method]:
        """The methods of the members."""
        return self.of if isinstance(self.of, list) else [self.of]


def stack(models: Sequence[DualEncoder]) -> DualEncoder:
    """The first of M alike models, with the parameters and buffers of all in a new first axis."""
    stacked, (parameters, buffers) = models[0], stack_module_state(list(models))
    for name, tensor in {**parameters, **buffers}.items():
        owner, _, key = name.rpartition(".")
        trained = nn.Parameter(tensor, tensor.requires_grad) if name in parameters else tensor
        setattr(stacked.get_submodule(owner), key, trained)
    stacked.stacked = True
    return stacked


def run_stack(stacked: DualEncoder, batch: Batch) -> list[Output]:
    """Outputs of all members of a stack.

    In training each member has random numbers of its own, and its buffers are updated in place.
    """

    def run(state: dict[str, Tensor]) -> dict[str, Any]:
        output: Output = functional_call(stacked, state, (batch,))
        return {name: part for name, part in output._asdict().items() if part is not None}

    state = {**dict(stacked.named_parameters()), **dict(stacked.named_buffers())}
    outputs: list[dict[str, Any]]
    indices = range(len(next(iter(state.values()))))
    if torch.compiler.is_exporting():  # in vmap, the sizes of the traced batch would be constants
        outputs = [run({name: part[index] for name, part in state.items()}) for index in indices]
    else:
        together = torch.vmap(run, randomness="different")(state)
        # the one function of torch that maps named tuples
        outputs = [tree_map(itemgetter(index), together) for index in indices]
    return [Output(**output) for output in outputs]


def mean_answer(answers: Sequence[Tensor], task: Task) -> Tensor:
    """Logits ``(..., C)`` of the mean of the probabilities of M answers ``(..., C)``."""
    logits = torch.stack(list(answers))
    if task == "multilabel":
        return F.logsigmoid(logits).logsumexp(dim=0) - F.logsigmoid(-logits).logsumexp(dim=0)
    return logits.log_softmax(dim=-1).logsumexp(dim=0)  # softmax divides by their number


def _common(towers: Sequence[Tower]) -> Tower:
    """The tower that gives all members what they read."""
    common = max(towers, key=lambda tower: (len(type(tower).__mro__), len(tower.layers)))
    for tower in towers:
        layers = common.layers[: len(tower.layers)]
        if not isinstance(common, type(tower)) or tower.layers != layers:
            raise ConfigError(
                f"Members of an Ensemble read the same layers in the same way, but a "
                f"{type(common).__name__} of layers {common.layers} serves no "
                f"{type(tower).__name__} of {tower.layers}: give all methods in model.method.of "
                "the same interaction_layers, and EPIC read_only prompts beside other methods."
            )
    common.shares_states = True
    common.keeps_tokens = any(tower.keeps_tokens for tower in towers)
    return common
