import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tiny_models import scramble
from torch import nn

from epic_pl.nn import ClassificationHead, HeadConfig, Pair
from epic_pl.nn.heads import Pooled
from epic_pl.nn.heads.choice import PenaltySweep
from epic_pl.nn.heads.classification import ModalityExperts, SimilarityHead
from epic_pl.nn.heads.inputs import Standardization
from epic_pl.nn.pair import Presence, Source
from epic_pl.utils.errors import ConfigError
from tolerance import assert_differ, assert_same

WIDTHS = Pair(6, 4)
NONE = Presence()
BOTH = {"image": 2, "text": 2}
ALL = {**BOTH, "columns": 4}


def masks(image, text) -> Presence:
    return Presence(torch.tensor(image, dtype=torch.bool), torch.tensor(text, dtype=torch.bool))


def masked(columns) -> Presence:
    return Presence(columns=columns.bool())


def outputs(rows=4) -> Pair:
    return Pair(*(Pooled(torch.randn(rows, w), torch.randn(rows, w)) for w in WIDTHS))


# standardisation ------------------------------------------------------------------------------


def test_statistics_are_those_of_all_samples_so_far():
    layer, seen = Standardization(3), []
    for size in (5, 1, 7, 9):
        seen.append(torch.randn(size, 3) * 4 + 2)
        layer(seen[-1])
    rows = torch.cat(seen)
    # a share of a batch never falls below 0.05, which 22 samples do not reach
    torch.testing.assert_close(layer.mean, rows.mean(dim=0))
    torch.testing.assert_close(layer.variance, rows.var(dim=0, unbiased=False))
    reference = nn.BatchNorm1d(3, affine=False, eps=1e-6).eval()
    reference.running_mean, reference.running_var = layer.mean, layer.variance
    torch.testing.assert_close(layer.eval()(rows), reference(rows))


def test_missing_rows_do_not_count_whatever_they_hold():
    layer, reference = Standardization(3), Standardization(3)
    rows = torch.randn(6, 3)
    reference(rows[[0, 2, 5]])
    rows[[1, 3, 4]] = torch.nan
    layer(rows, torch.tensor([1, 0, 1, 0, 0, 1], dtype=torch.bool))
    torch.testing.assert_close(layer.state_dict(), reference.state_dict())
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer(rows, torch.zeros(6, dtype=torch.bool))
    torch.testing.assert_close(dict(layer.state_dict()), before)


def test_drifting_features_are_followed():
    layer = Standardization(1)
    for _ in range(200):
        layer(torch.randn(8, 1))
    for _ in range(200):
        layer(torch.randn(8, 1) + 30)
    assert layer.mean.item() == pytest.approx(30, abs=1)
    assert layer.variance.item() == pytest.approx(1, abs=0.8)


def test_evaluation_changes_nothing_and_an_untrained_layer_is_the_identity():
    layer, rows = Standardization(3).eval(), torch.randn(4, 3)
    assert_same(layer(rows), rows)
    assert layer.count == 0
    layer.train()(rows[:1])
    assert torch.equal(layer.mean, rows[0])
    assert torch.equal(layer.variance, torch.ones(3))  # one sample has no variance
    assert layer.bfloat16()(rows.bfloat16()).dtype == torch.bfloat16


# terms ----------------------------------------------------------------------------------------


def test_similarity_is_a_weighted_cosine_of_bimodal_samples():
    head, features = SimilarityHead(WIDTHS, 3), Pair(torch.randn(4, 6), torch.randn(4, 4))
    logits = head(head.project(features, masks([1, 0, 1, 1], [1, 1, 1, 0])))
    a, b = head.down_image(features.image), head.down_text(features.text)
    expected = torch.cosine_similarity(a, b)[:, None] / 0.1 * head.linear.weight[:, 0]
    torch.testing.assert_close(logits[[0, 2]], expected[[0, 2]])
    assert not logits[[1, 3]].any()


def test_dropout_is_on_in_training_only_and_is_a_probability():
    head = ClassificationHead(WIDTHS, 3, HeadConfig(dropout=0.5))
    given = outputs()
    for _ in range(50):  # until the statistics have settled
        head(given, None, NONE)
    one, other = head(given, None, NONE), head(given, None, NONE)
    assert not torch.allclose(one.logits, other.logits, rtol=1e-3)
    torch.testing.assert_close(one.matched, other.matched)  # the similarity is of all features
    head.eval()
    assert torch.equal(head(given, None, NONE)[0], head(given, None, NONE)[0])
    with pytest.raises(ConfigError, match="dropout"):
        HeadConfig(dropout=1.5)


def test_prompts_of_unimodal_samples_do_not_count():
    head, present = (
        ClassificationHead(WIDTHS, 3, HeadConfig(), prompts=True),
        masks([1, 1, 0], [1, 0, 1]),
    )
    given = outputs(3)
    one, other = (
        head.eval()(given, Pair(*(torch.randn(3, 2, w) for w in WIDTHS)), present).logits
        for _ in range(2)
    )
    assert torch.equal(one[1:], other[1:])
    assert_differ(one[0], other[0])


def test_statistics_of_the_head_are_of_modalities_that_are_present():
    head = ClassificationHead(WIDTHS, 3, HeadConfig(boundary=False), prompts=True)
    present, both = masks([1, 1, 0, 1], [1, 0, 1, 1]), torch.tensor([True, False, False, True])
    given = outputs()
    prompts = Pair(*(torch.randn(4, 2, w) for w in WIDTHS))
    head(given, prompts, present)
    for part, pooled, own, rows in zip(
        (head.image, head.text), given, prompts, present[:2], strict=True
    ):
        torch.testing.assert_close(part.standardize_encoder.mean, pooled.output[rows].mean(dim=0))
        torch.testing.assert_close(part.standardize_prompts.mean, own[both].mean(dim=(0, 1)))


def test_columns_lose_nothing_to_dropout_and_the_linear_layer_starts_silent():
    head = ClassificationHead(WIDTHS, 3, HeadConfig(similarity=False, dropout=1.0, columns=5))
    given = outputs()
    cells, seen = torch.rand(4, 5), []
    head.classifier.linear.register_forward_hook(lambda _, given, made: seen.extend((*given, made)))
    head.train()(given, None, masked(torch.ones(4)), cells=cells)
    joined, added = seen
    assert torch.equal(joined[:, -5:], cells)
    assert not joined[:, :-5].any()
    assert not added.any()


# experts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("image", "text"), ("image", "text", "columns")])
def test_experts_join_as_a_product_until_they_are_not_used(names):
    """Where sources are independent given the class, the product is Bayes' rule."""
    experts = ModalityExperts(BOTH, 3)
    made = {name: torch.randn(4, 3).softmax(dim=1) for name in names}
    prior, joint = torch.tensor([0.5, 0.3, 0.2]), torch.zeros(4, 3)
    experts.prior.copy_(prior.log())
    candidates = experts.candidates(joint, {name: of.log() for name, of in made.items()})
    product = prior * torch.stack([of / prior for of in made.values()]).prod(dim=0)
    expected = product / product.sum(dim=1, keepdim=True)
    torch.testing.assert_close((2 * experts.answer(candidates)).softmax(dim=1), expected)
    experts.chosen.fill_(1)
    assert torch.equal(experts.answer(candidates), joint)


@pytest.mark.parametrize("better", [0, 1], ids=["with experts", "without"])
def test_experts_are_used_if_30_samples_are_more_likely_with_them(better):
    experts, labels = ModalityExperts(BOTH, 3), torch.arange(30) % 3
    good = torch.eye(3)[labels] + torch.randn(30, 3) / 2
    candidates = torch.stack([good if side == better else torch.randn(30, 3) for side in (0, 1)], 1)
    chosen = experts.choose(candidates, labels, "multiclass")
    assert torch.equal(chosen, good)
    assert torch.equal(experts.answer(candidates), good)
    assert torch.equal(
        experts.choose(candidates[:29], labels[:29], "multiclass"), candidates[:29, 0]
    )
    assert experts.chosen == 0


def test_an_expert_starts_at_the_prior_and_stays_there_for_a_missing_modality():
    experts, prior = ModalityExperts(BOTH, 3), torch.tensor([1.0, 0.0, -1.0])
    experts.start_at(prior)
    features, joint = {name: torch.randn(2, 2) for name in BOTH}, torch.randn(2, 3)
    made = experts({name: Source(each) for name, each in features.items()})
    assert torch.equal(made["image"], prior.repeat(2, 1))
    torch.testing.assert_close(experts.candidates(joint, made)[:, 0], (joint + prior) / 2)
    torch.nn.init.ones_(experts.image.weight)
    made = experts({name: Source(each, torch.arange(2) < 1) for name, each in features.items()})
    assert not torch.equal(made["image"][0], prior)
    assert torch.equal(made["image"][1], prior)


def test_another_prior_leaves_what_each_expert_tells_beyond_it():
    experts, prior = ModalityExperts(ALL, 3).eval(), torch.tensor([1.0, 0, -1])
    experts.start_at(prior)
    given = {name: Source(torch.randn(5, width)) for name, width in ALL.items()}
    before = experts(given)
    experts.move_to(new := torch.tensor([0.0, 3, 1]))
    for name, logits in experts(given).items():
        assert_same(logits - new, before[name] - prior)


def test_candidates_join_what_sources_tell_beyond_the_prior():
    experts, prior = ModalityExperts(ALL, 3), torch.tensor([1.0, 0, -1])
    experts.start_at(prior)
    joint, trees = torch.randn(5, 3), torch.randn(5, 3)
    logits = {name: torch.randn(5, 3) for name in ("image", "text", "columns")}
    found = experts.candidates(joint, logits, trees)
    image, text, cells = (each - prior for each in logits.values())
    half = (image + text + cells + joint - prior) / 2
    bases = half, joint - prior, image + text, cells
    expected = [prior + base + share * trees for base in bases for share in (0.5, 1, 0)]
    assert_same(found, torch.stack(expected, dim=1))
    assert_same(experts.answer(found), expected[0])
    labels = trees.argmax(dim=1).repeat(8)
    experts.choose(found.repeat(8, 1, 1), labels, "multiclass")
    assert experts.chosen % 3 == 1


def test_a_batch_without_columns_is_one_whose_columns_are_empty():
    head = scramble(ClassificationHead(WIDTHS, 3, HeadConfig(columns=5))).eval()
    pooled = outputs()
    empty = head(pooled, None, masked(torch.zeros(4)), cells=torch.full((4, 5), torch.nan))
    assert torch.equal(head(pooled, None, NONE).logits, empty.logits)
    given = head(pooled, None, masked(torch.ones(4)), cells=torch.rand(4, 5))
    assert [*given.trained] == ["joint", "image", "text", "columns"]
    for name in ("joint", "columns"):
        assert not torch.isclose(given.trained[name], empty.trained[name]).any()
    for name in ("image", "text"):
        assert torch.equal(given.trained[name], empty.trained[name])


def test_each_classifier_gets_a_loss_of_its_own_logits():
    """The joint one sees both modalities, each expert the encoder's features of one."""
    head = scramble(ClassificationHead(WIDTHS, 3, HeadConfig(), prompts=True)).eval()
    pooled = outputs()
    prompts = Pair(*(torch.randn(4, 2, w) for w in WIDTHS))
    made = head(pooled, prompts, NONE)
    assert list(made.trained) == ["joint", "image", "text"]
    for side in ("image", "text"):
        encoder = torch.cat(getattr(pooled, side), dim=1)
        expected = getattr(head.experts, side)(encoder)
        assert_same(made.trained[side], expected)
    head.experts.chosen.fill_(1)
    assert torch.equal(head(pooled, prompts, NONE).logits, made.trained["joint"])
    assert not torch.equal(made.logits, made.trained["joint"])


# choices ---------------------------------------------------------------------------------------


def test_layers_of_a_sweep_reach_the_optimum_of_their_penalties():
    features, labels = torch.randn(200, 6), torch.arange(200) % 3
    features[:, 0] += labels
    sweep = PenaltySweep(6, 3, penalties := (0.5, 0.1, 0.02)).double()
    sweep.start_at(torch.zeros(3))
    optimizer = torch.optim.LBFGS(sweep.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        named = sweep.named(sweep(features.double()))
        total = sum(nn.functional.cross_entropy(logits, labels) for logits in named.values())
        total = total + sweep.penalty()
        total.backward()
        return total

    optimizer.step(loss)
    for layer, penalty in zip(sweep.layers, penalties, strict=True):
        peer = LogisticRegression(C=1 / (200 * penalty), tol=1e-8, max_iter=1000)
        peer.fit(features.double().numpy(), labels.numpy())
        found = torch.from_numpy(peer.coef_)
        torch.testing.assert_close(layer.weight.detach(), found, rtol=0, atol=1e-4)


def test_the_likeliest_of_several_candidates_is_the_answer_until_it_is_reset():
    sweep, labels = PenaltySweep(2, 3, (1.0, 0.1, 0.01)), torch.arange(30) % 3
    candidates = torch.randn(30, 3, 3)
    assert torch.equal(sweep.choose(candidates[:29], labels[:29], "multiclass"), candidates[:29, 1])
    candidates[:, 2] = 5 * torch.eye(3)[labels]
    assert torch.equal(sweep.choose(candidates, labels, "multiclass"), candidates[:, 2])
    assert torch.equal(sweep.answer(candidates), candidates[:, 2])
    sweep.reset()
    assert torch.equal(sweep.answer(candidates), candidates[:, 1])


def test_a_swept_head_starts_at_the_prior_and_trains_each_layer():
    config = HeadConfig(similarity=False, network="none", dropout=0.0)
    head, prior = ClassificationHead(WIDTHS, 3, config, penalties=(1.0, 0.1)), torch.arange(3.0)
    head.start_at(prior)
    given = outputs()
    output = head(given, None, NONE)
    torch.testing.assert_close(output.candidates, prior.expand(4, 2, 3))
    assert list(output.trained) == ["penalty_1", "penalty_0.1"]
    assert output.penalty == 0
    nn.init.ones_(head.classifier.layers[1].weight)
    assert head(given, None, NONE).penalty.item() == pytest.approx(0.15 * head.num_features)
