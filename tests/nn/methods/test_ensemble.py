"""Ensemble against its members as single models, one after another."""

from dataclasses import replace

import pytest
import torch
from tiny_models import (
    ALL_PARTS,
    PRESENCE,
    batch,
    image_encoder,
    logits,
    over,
    randomise,
    text_encoder,
)
from torch.nn.functional import cross_entropy

from epic_pl.module.config import OptimConfig
from epic_pl.module.optim import parameter_groups
from epic_pl.nn import EPIC, HeadConfig, Pair
from epic_pl.nn.methods import (
    PMF,
    Ensemble,
    FullFineTuning,
    LateFusionMLP,
    LinearProbe,
    LoRA,
    MaPLe,
    NoInteraction,
    NoPrompts,
    Parts,
    Trees,
)
from epic_pl.utils.errors import ConfigError
from tolerance import assert_differ, assert_same


class Plain(NoPrompts):
    """A method whose head has no candidates to choose from."""

    def own(self, head):
        return replace(head, similarity=False, network="none")


SMALL = EPIC(num_prompts=2, hub_width=4)
EARLY = [[0, 0], [1, 1]]
FEWER = replace(SMALL, interaction_layers=EARLY[:1])
KINDS = {
    "EPIC": SMALL,
    "joint": replace(SMALL, prompt_attention="joint"),
    "paper": replace(SMALL, hub="parameter_free", generation="linear", first_prompt="from_text"),
    "Parts": Parts(),
    "LateFusionMLP": LateFusionMLP(),
    "PMF": PMF(num_prompts=2),
    # the first tower keeps no tokens, reads no memory, or reads fewer layers than the second
    "tokens": [LateFusionMLP(), Parts()],
    "memory": [LateFusionMLP(interaction_layers=EARLY[:1]), FEWER],
    "layers": [FEWER, replace(FEWER, interaction_layers=EARLY)],
    "unlike": [SMALL, Parts(), LateFusionMLP(), Plain()],
    "probe": [SMALL, LinearProbe(), Trees()],
}
kinds = over("of", KINDS)
WIDE = HeadConfig()
MADE = batch([4, 2, 3], [1, 0, 1], [1, 1, 0])
LABELS = torch.tensor([0, 1, 1])
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")


def build(of, members=3, head=WIDE, task="multiclass", classes=2, **options):
    """An ensemble in float64, whose members differ in all their weights and statistics."""
    torch.manual_seed(0)
    encoders = Pair(image_encoder(), text_encoder())
    method = Ensemble(of, members)
    return method, randomise(method.build(encoders, classes, head, task=task, **options))


def sizes(method):
    """Number of members of each method."""
    return [1 if isinstance(of, (LinearProbe, Trees)) else method.members for of in method.methods]


def singles(method, model, head=WIDE, classes=2):
    """The members as models of their own, in the order of the ensemble's."""
    for of, stack, size in zip(method.methods, model.stacks, sizes(method), strict=True):
        for index in range(size):
            single = of.build(Pair(image_encoder(), text_encoder()), classes, head).double()
            own = {name: tensor[index].clone() for name, tensor in stack.state_dict().items()}
            frozen = {name for name in single.state_dict() if "_tower." in name}
            result = single.load_state_dict(own, strict=False)
            assert (set(result.missing_keys), result.unexpected_keys) == (frozen, [])
            for name, buffer in stack.named_buffers():  # those that no checkpoint holds, too
                assert torch.equal(dict(single.named_buffers())[name], buffer[index])
            yield single.eval()


def without_randomness(model):
    """The model in training, without dropout of features."""
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return model.train()


# answers --------------------------------------------------------------------------------------


@kinds
@torch.no_grad()
def test_the_answer_is_the_mean_of_the_members_probabilities(of):
    method, model = build(of)
    members = [*singles(method, model)]
    # each method counts as much as another
    shares = [1 / size for size in sizes(method) for _ in range(size)]
    shares = torch.tensor(shares, dtype=torch.double)[:, None, None] / len(method.methods)
    for presence in PRESENCE.values():
        made = batch([4, 2, 3], *presence)
        outputs = [member(made) for member in members]
        alone = torch.stack([output.logits for output in outputs])
        for task, softmax in (("multiclass", True), ("multilabel", False)):
            model.task = task
            output = model(made)
            if softmax:
                expected = alone.exp() / alone.exp().sum(dim=-1, keepdim=True)
                given = output.logits.softmax(dim=-1)
            else:
                expected, given = 1 / (1 + (-alone).exp()), output.logits.sigmoid()
            assert_same(given, (shares * expected).sum(dim=0))
        own = torch.stack([member.logits for member in output.members])
        assert_same(own, alone)
        assert_same(output.pooled, outputs[0].pooled)
    if len(alone) > len(method.methods):
        assert_differ(alone[0], alone[1])


def test_far_logits_have_finite_means():
    _, model = build(LateFusionMLP(), task="multilabel")
    with torch.no_grad():
        for expert in (model.head.experts.image, model.head.experts.text):
            expert.bias.fill_(-1e4)
    assert logits(model, MADE).isfinite().all()


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@torch.no_grad()
def test_each_method_chooses_among_its_own_candidates_for_all_its_members(task):
    _, model = build([SMALL, Plain(), LinearProbe()], members=2, task=task)
    candidates = model(MADE).candidates
    experts, penalties = model.choices
    assert (experts.number, penalties.number) == (2, 7)
    assert candidates.shape[1] == 2 + 1 + 7
    assert (experts.chosen.shape, penalties.chosen.shape) == ((2,), (1,))
    labels = torch.arange(60) % 2
    held = torch.nn.functional.one_hot(labels, 2)
    for places in ((0, 2, 3), (1, 2, 9)):
        given = torch.randn(60, 10, 2, dtype=torch.double)
        given[:, places] += 9 * held[:, None]  # what validation shows to be right
        told = model.choose(given, held if task == "multilabel" else labels)
        assert (experts.chosen == places[0]).all()
        assert (penalties.chosen == places[2] - 3).all()
        for logits_, parts in (
            (told, given[:, places]),
            (model(MADE).logits, candidates[:, places]),
        ):
            expected = parts.sigmoid() if task == "multilabel" else parts.softmax(dim=-1)
            own = logits_.sigmoid() if task == "multilabel" else logits_.softmax(dim=-1)
            assert_same(own, expected.mean(dim=1))


def test_a_modality_that_no_sample_lacked_is_known_beside_trees():
    _, model = build([Trees(), SMALL], members=1)
    for part in (model.stacks[1].head.image, model.stacks[1].head.text):
        part.missing.data.zero_()
    assert model.head.never_missing == ["image", "text"]


# training -------------------------------------------------------------------------------------


def loss(output):
    trained = output.trained or {"joint": output.logits}
    return sum(cross_entropy(part, LABELS) for part in trained.values())


@kinds
def test_gradients_and_statistics_are_those_of_each_member_alone(of):
    method, model = build(of)
    members = [without_randomness(member) for member in singles(method, model)]
    outputs = without_randomness(model)(MADE).members
    sum(loss(output) for output in outputs).backward()
    for member in members:
        loss(member(MADE)).backward()
    for stack, size in zip(model.stacks, sizes(method), strict=True):
        own, members = members[:size], members[size:]
        parameters = [dict(member.named_parameters()) for member in own]
        given = {name: p.grad for name, p in stack.named_parameters() if p.requires_grad}
        assert_same(
            given, {name: torch.stack([each[name].grad for each in parameters]) for name in given}
        )
        buffers = [dict(member.named_buffers()) for member in own]
        for name, buffer in stack.named_buffers():
            alone = torch.stack([each[name] for each in buffers])
            assert_same(buffer, alone)


@pytest.mark.parametrize("dropout", ["modalities", "features"])
def test_members_draw_their_own_randomness(dropout):
    _, model = build(SMALL, modality_dropout=0.5 * (dropout == "modalities"))
    with torch.no_grad():
        for tensor in (*model.members.parameters(), *model.members.buffers()):
            tensor.copy_(tensor[:1].expand_as(tensor))  # all alike
    alike = [output.logits for output in model(MADE).members]
    assert_same(alike[0], alike[1])
    if dropout == "modalities":
        without_randomness(model)
    first, second, _ = (output.logits for output in model.train()(batch([4] * 8)).members)
    assert_differ(first, second)


@pytest.mark.parametrize("training", [True, False])
def test_the_frozen_encoders_run_once_for_all_members(training):
    _, model = build([SMALL, Parts()], modality_dropout=0.5)  # each member loses other modalities
    runs = []
    for encoder in (model.image_encoder, model.text_encoder):
        for name in ("embed", "_layer"):
            run = getattr(encoder, name)
            note = lambda *given, run=run: runs.append(given) or run(*given)  # noqa: E731
            setattr(encoder, name, note)
    with torch.set_grad_enabled(training):
        model.train(training)(batch([4, 2]))
    assert len(runs) == 2 * (1 + 3)
    inputs = [part for given in runs for part in given if isinstance(part, torch.Tensor)]
    assert not any(torch._C._functorch.is_batchedtensor(part) for part in inputs)


def test_rates_and_decay_are_those_of_the_single_models():
    method, model = build([SMALL, LateFusionMLP()], head=ALL_PARTS)
    config = OptimConfig(lr=1.0, prompt_lr=2.0, weight_decay=0.1)
    groups = parameter_groups(model, config)
    assert len({group["name"] for group in groups}) == len(groups)
    given = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    members = [*singles(method, model, head=ALL_PARTS)][::3]
    for stack, member in zip(model.stacks, members, strict=True):
        names = {id(p): name for name, p in member.named_parameters()}
        for group in parameter_groups(member, config):
            for parameter in group["params"]:
                own = dict(stack.named_parameters())[names[id(parameter)]]
                assert given[id(own)] == (group["lr"], group["weight_decay"])


# refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", [FullFineTuning(), LoRA(), MaPLe()])
def test_methods_without_members_that_differ_on_shared_features_are_refused(of):
    with pytest.raises(ConfigError, match=rf"{type(of).__name__} cannot be a member .* Take EPIC"):
        build(of)


def test_members_with_prompts_and_checkpointed_layers_are_refused_before_training():
    image = image_encoder()
    image.checkpoint_layers = True
    with pytest.raises(ConfigError, match=r"set model\.encoders\.checkpoint_layers to false"):
        Ensemble().build(Pair(image, text_encoder()), 2)
    assert Ensemble(LateFusionMLP()).build(Pair(image, text_encoder()), 2)


@pytest.mark.parametrize(
    "of",
    [
        [KINDS["joint"], LateFusionMLP()],
        [SMALL, LateFusionMLP(interaction_layers=1)],
        [SMALL, NoInteraction(interaction_layers=3)],
    ],
)
def test_members_that_read_the_encoders_differently_are_refused(of):
    with pytest.raises(ConfigError, match=r"give all methods in model\.method\.of the same"):
        build(of)


def test_an_ensemble_has_single_members_and_at_least_one():
    for of in ([], Ensemble(), [Parts(), Ensemble()]):
        with pytest.raises(ConfigError, match="name methods of single models"):
            Ensemble(of)
    with pytest.raises(ConfigError, match="members"):
        Ensemble(members=0)
