import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from torch.utils.data import DataLoader, IterableDataset

import tiny_runs
from epic_pl.errors import DataError, TrainingError
from epic_pl.module.modality_balance import PooledRows, modality_balance, part_scales
from epic_pl.nn.heads.classification import ClassificationHead
from epic_pl.nn.heads.similarity import Agreement

WIDTHS = {"image": 32, "text": 32}


class _AtFirstBatch(L.Callback):
    """What a run starts from, and the rows that it reads."""

    def __init__(self):
        self.state, self.rows = None, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.state is None:
            self.state = {k: v.clone() for k, v in pl_module.model.state_dict().items()}
        self.rows.append(batch["sample_id"])
        self.drawn = torch.rand(3)


@pytest.fixture
def make(tiny_vit_dir, tiny_tokenizer_dir):
    def build(**options):
        torch.manual_seed(0)
        return tiny_runs.module(tiny_vit_dir, tiny_tokenizer_dir, **options)

    return build


def _fit(model, folder, loader=None, **options):
    seen = _AtFirstBatch()
    trainer = tiny_runs.trainer(folder, max_epochs=1, callbacks=[seen], **options)
    torch.manual_seed(1)
    trainer.fit(model, tiny_runs.loader(tiny_runs.samples(48)) if loader is None else loader)
    return seen


def _pooled(model, rows, present=None, boundaries=None):
    """Pooled by the encoders themselves, a row at a time; with ``boundaries`` what enters them."""
    sides = []
    with torch.no_grad():
        for kind, name in (("image", "pixel_values"), ("text", "input_ids")):
            encoder = getattr(model.model, f"{kind}_encoder")
            pooled = []
            for row in rows:
                states = encoder.embed(row[name][None])
                said = [encoder.pool(encoder.run_layers(0, encoder.num_layers, states))[0]]
                if boundaries:
                    entering = encoder.run_layers(0, boundaries[kind], states)[0]
                    said.append(entering[encoder.num_prefix_tokens :].mean(dim=0))
                pooled.append(torch.stack(said))
            everyone = torch.ones(len(rows), dtype=torch.bool)
            there = everyone if present is None else present[kind]
            sides.append(PooledRows(torch.stack(pooled), there))
    return sides


@pytest.mark.parametrize("method", ["linear_probe", "late_fusion_mlp", "full"])
def test_a_fit_starts_from_the_training_rows(method, make, tmp_path):
    rows = tiny_runs.samples(48)
    model = make(method=method)
    sides = _pooled(model, rows)
    state = _fit(model, tmp_path).state
    labels = torch.stack([row["labels"] for row in rows])
    targets = torch.nn.functional.one_hot(labels, 3)
    balance = modality_balance(sides[0].centred, sides[1].centred, targets)
    key = "head.0" if method == "late_fusion_mlp" else "head"
    for part, [scale] in enumerate(part_scales(*sides, balance)):
        weight = state[f"{key}.norms.{part}.weight"]
        torch.testing.assert_close(weight, torch.full_like(weight, scale), rtol=1e-3, atol=1e-4)
        expected = -scale * sides[part].mean[0]
        torch.testing.assert_close(state[f"{key}.norms.{part}.bias"], expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(state["absent_image"], sides[0].pooled_mean, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(state["absent_text"], sides[1].pooled_mean, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("layers", [(0, 1), (1, 0)])
def test_each_summary_of_epic_starts_from_its_own_rows(layers, make, tmp_path):
    rows = tiny_runs.samples(48)
    model = make(prompt_attention="read_only", interaction_layers=[list(layers)])
    sides = _pooled(model, rows, boundaries=dict(zip(("image", "text"), layers, strict=True)))
    state = _fit(model, tmp_path).state
    targets = torch.nn.functional.one_hot(torch.stack([row["labels"] for row in rows]), 3)
    balance = modality_balance(sides[0].centred, sides[1].centred, targets)
    scales = part_scales(*sides, balance)
    for side, vectors in enumerate(scales):
        for number, scale in enumerate(vectors):
            part = 2 * number + side
            weight, bias = (state[f"head.norms.{part}.{name}"] for name in ("weight", "bias"))
            torch.testing.assert_close(weight, torch.full_like(weight, scale), rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(bias, -scale * sides[side].mean[number], atol=2e-3, rtol=0)
        absent = state[f"absent_{('image', 'text')[side]}"]
        torch.testing.assert_close(absent, sides[side].pooled_mean, atol=1e-4, rtol=1e-3)


def test_who_is_alone_starts_from_what_every_layer_makes_of_the_rows(make, tmp_path):
    rows = tiny_runs.samples(48)
    model = make(
        prompt_attention="read_only",
        interaction_layers=[[0, 0], [1, 1]],
        head_inputs="pooled+prompts",
        missing_aware_head=True,
    )
    first, second = (_pooled(model, rows, boundaries={"image": n, "text": n}) for n in (0, 1))
    state = _fit(model, tmp_path).state
    for side in (0, 1):
        vectors = torch.cat([first[side].values, second[side].values[:, 1:]], dim=1)  # (R, 3, 32)
        vectors = torch.nn.functional.layer_norm(vectors, (32,))
        for number, vector in enumerate(vectors.unbind(dim=1)):
            part = f"head.alone.norms.{2 * number + side}"
            started = vector * state[f"{part}.weight"] + state[f"{part}.bias"]
            assert started.mean(dim=0).abs().max() < 1e-3
            assert started.var(dim=0).mean() == pytest.approx(2 / 3, rel=1e-2)
    prompts = [state[f"head.alone.norms.{part}.weight"] for part in (6, 7)]
    assert all(torch.equal(weight, torch.full_like(weight, 0.3)) for weight in prompts)
    assert not state["head.alone.linear.weight"].any()


@pytest.mark.parametrize("attention", ["joint", "read_only"])
def test_epic_centres_what_it_pools_and_leaves_the_prompts_parts(attention, make, tmp_path):
    model = make(prompt_attention=attention)
    head = next(m for m in model.model.modules() if isinstance(m, ClassificationHead))
    before = [norm.weight.clone() for norm in head.norms]
    state = _fit(model, tmp_path).state
    for part in (4, 5):
        assert torch.equal(state[f"head.norms.{part}.weight"], before[part])
        assert not state[f"head.norms.{part}.bias"].any()
    assert all(state[f"head.norms.{part}.bias"].any() for part in range(4))


def test_looking_draws_no_number_and_reads_no_row_of_the_epoch(make, tmp_path):
    looked, plain = (
        _fit(make(method="linear_probe", balance_modalities=on), tmp_path) for on in (True, False)
    )
    assert looked.rows == plain.rows
    assert torch.equal(looked.drawn, plain.drawn)
    assert torch.equal(plain.state["head.norms.0.weight"], torch.ones(32))
    assert not torch.equal(looked.state["head.norms.0.weight"], torch.ones(32))


def test_absent_modalities_do_not_count(make, tmp_path):
    rows = tiny_runs.samples(80)
    present = torch.arange(80) % 2 == 0
    for row, there in zip(rows, present, strict=True):
        row["text_present"] = there
    model = make(method="linear_probe")
    everyone = torch.ones(80, dtype=torch.bool)
    _, text = _pooled(model, rows, {"image": everyone, "text": present})
    state = _fit(model, tmp_path, tiny_runs.loader(rows)).state
    torch.testing.assert_close(state["absent_text"], text.pooled_mean, atol=1e-4, rtol=1e-3)


def test_a_modality_that_nobody_has_is_left_as_it_was(make, tmp_path):
    rows = tiny_runs.samples(48)
    for row in rows:
        row["text_present"] = torch.tensor(False)
    state = _fit(make(method="linear_probe"), tmp_path, tiny_runs.loader(rows)).state
    assert torch.equal(state["head.norms.1.weight"], torch.ones(32))
    assert not state["absent_text"].any()
    assert state["head.norms.0.bias"].any()


def test_trained_weights_are_kept(make, tmp_path):
    model = make(method="linear_probe")
    _fit(model, tmp_path)
    trained = {key: value.clone() for key, value in model.model.state_dict().items()}
    again = _fit(model, tmp_path).state
    loaded = make(method="linear_probe")
    loaded.load_state_dict(model.state_dict())
    assert all(torch.equal(value, trained[key]) for key, value in again.items())
    assert not loaded._starts_from_rows


class _Stream(IterableDataset):
    def __iter__(self):
        return iter(tiny_runs.samples(8))


def test_a_stream_cannot_be_looked_at_and_trains_all_the_same(make, tmp_path):
    state = _fit(make(method="linear_probe"), tmp_path, DataLoader(_Stream(), batch_size=4)).state
    assert torch.equal(state["head.norms.0.weight"], torch.ones(32))


def test_a_wrong_batch_is_still_named(make, tmp_path):
    loader = tiny_runs.loader(tiny_runs.samples(48), drop=["labels"])
    with pytest.raises(DataError, match="labels"):
        _fit(make(method="linear_probe"), tmp_path, loader)


# ------------------------------------------------------------------ the loss of pooled outputs


def _loss(model, batch):
    model.log = model.log_dict = lambda *_, **__: None
    torch.manual_seed(0)
    return float(model.training_step(batch, 0).detach())


def _own_losses(model, batch):
    """Of the head's map of the pooled outputs, and of all that it maps."""
    parts = []
    head = model.model.head
    handle = head.register_forward_pre_hook(lambda _, inputs: parts.append(inputs[0]))
    with torch.no_grad():
        model(batch)
    handle.remove()
    normed = [norm(part) for norm, part in zip(head.norms, parts[0], strict=True)]
    losses = []
    for many in (4, 6):
        weight = head.linear.weight[:, : 32 * many]
        logits = torch.cat(normed[:many], dim=1) @ weight.T + head.linear.bias
        losses.append(float(model.objective(logits, batch["labels"]).detach()))
    return losses


@pytest.mark.parametrize("share", [1.0, 3.0])
def test_the_parts_of_the_logits_have_a_loss_of_their_own(share, make):
    options = {"head_dropout": 0.0, "dropout": 0.0}
    batch = next(iter(tiny_runs.loader(tiny_runs.samples(4))))
    plain = _loss(make(**options, pooled_loss=0.0).train(), batch)
    model = make(**options, pooled_loss=share).train()
    pooled, linear = _own_losses(model, batch)
    assert len({round(loss, 4) for loss in (plain, pooled, linear)}) == 3
    expected = (plain + share * (pooled + linear) / 2) / (1 + share)
    assert _loss(model, batch) == pytest.approx(expected, rel=1e-5)
    assert model.model.partial_logits == ()
    # without the similarity the map of all parts is all there is
    model = make(**options, head_similarity=False, pooled_loss=share).train()
    pooled, linear = _own_losses(model, batch)
    assert _loss(model, batch) == pytest.approx((linear + share * pooled) / (1 + share), rel=1e-5)
    # and a probe has no parts
    probes = [make(**options, method="linear_probe", pooled_loss=x).train() for x in (0.0, share)]
    assert _loss(probes[0], batch) == _loss(probes[1], batch)


# ------------------------------------------------------------------ what both have in common


def test_the_similarity_starts_from_what_pictures_and_texts_have_in_common(make, tmp_path):
    model = make()
    compared = _compared(model, tiny_runs.samples(48))
    random = {k: v.clone() for k, v in model.model.head.agreement.state_dict().items()}
    state = _fit(model, tmp_path).state
    start = {k: state[f"head.agreement.{k}"] for k in random}
    scale = model.model.config.head_prompt_scale
    sides = []
    for side, vectors in zip(("image", "text"), compared, strict=True):
        normed = torch.nn.functional.layer_norm(vectors, vectors.shape[-1:])
        # the pooled output with the prompts, then the boundary's mean
        joined = torch.cat([normed[:, 0] + scale * normed[:, 2:].mean(dim=1), normed[:, 1]], dim=1)
        bias = start[f"similarity.norm_{side}.bias"]
        torch.testing.assert_close(joined.mean(dim=0), -bias, atol=1e-4, rtol=0)
        sides.append((joined - joined.mean(dim=0)).double())
    # W_v^T W_t is the covariance's best approximation of that rank, but for its length
    wanted = sides[0].T @ sides[1]
    left, values, right = torch.linalg.svd(wanted)
    down = [start[f"similarity.down_{side}.weight"].double() for side in ("image", "text")]
    rank = len(down[0])
    best = (left[:, :rank] * values[:rank]) @ right[:rank]
    cosine = torch.nn.functional.cosine_similarity
    found = down[0].T @ down[1]
    assert cosine(found.flatten(), best.flatten(), dim=0) > 0.999
    for side, weight in zip(("image", "text"), down, strict=True):
        length = random[f"similarity.down_{side}.weight"].norm()
        assert weight.norm().item() == pytest.approx(length.item(), rel=1e-4)


@pytest.mark.parametrize("related", [True, False])
def test_the_similarity_says_what_rows_say_that_did_not_choose_it(related):
    torch.manual_seed(0)
    image = torch.randn(400, 3, 24)
    labels = torch.arange(400) // 2 % 2
    text = torch.where(labels[:, None, None] == 1, image, torch.randn(400, 3, 24))
    if not related:
        labels = torch.randint(2, (400,))
    targets = torch.nn.functional.one_hot(labels, 2)
    agreement = Agreement((24, 24), 6, 2, 0.3)
    agreement.start_from_rows(*agreement.summaries(image, text), targets)
    # by least squares: directions of one half, slopes over the other
    sides = []
    for vectors in (image, text):
        normed = torch.nn.functional.layer_norm(vectors, (24,))
        joined = normed[:, 0] + 0.3 * normed[:, 1:].mean(dim=1)
        sides.append((joined - joined.mean(dim=0)).double())
    left, values, right = torch.linalg.svd(sides[0][::2].T @ sides[1][::2])
    root = values[:6].sqrt()
    projected = [sides[0][1::2] @ left[:, :6] * root, sides[1][1::2] @ right[:6].T * root]
    s = torch.nn.functional.cosine_similarity(*projected) / 0.1
    design = torch.stack([s, torch.ones_like(s)], dim=1)
    slopes = torch.linalg.lstsq(design, targets[1::2].double()).solution[0]
    found = agreement.linear.weight[:, 0].detach().double()
    torch.testing.assert_close(found, slopes, atol=1e-5, rtol=1e-3)
    assert bool(found[1] > 0.02) is related


@pytest.mark.parametrize("rows", [32, 100])
def test_few_rows_that_have_nothing_in_common_promise_nothing(rows):
    torch.manual_seed(0)
    agreement = Agreement((384, 384), 64, 2, 0.3)
    image, text = torch.randn(rows, 5, 384), torch.randn(rows, 5, 384)
    labels = torch.randint(2, (rows,))
    targets = torch.nn.functional.one_hot(labels, 2)
    agreement.start_from_rows(*agreement.summaries(image, text), targets)
    unseen = agreement(torch.randn(500, 5, 384), torch.randn(500, 5, 384))
    assert unseen.abs().mean() < 0.3


def test_the_similarity_may_start_at_random(make, tmp_path):
    model = make(align_modalities=False)
    before = {k: v.clone() for k, v in model.model.state_dict().items() if "agreement" in k}
    state = _fit(model, tmp_path / "off").state
    assert before
    assert all(torch.equal(state[k], v) for k, v in before.items())
    assert state["head.norms.0.bias"].any()  # which the other option is about
    alone = _fit(make(balance_modalities=False), tmp_path / "alone").state
    assert not alone["head.norms.0.bias"].any()
    assert all(not torch.equal(alone[k], v) for k, v in before.items() if "down" in k)


def test_rows_without_a_modality_align_nothing(make, tmp_path):
    rows = tiny_runs.samples(96)
    for index, row in enumerate(rows):
        row["text_present"] = torch.tensor(index % 2 == 0)
        row["image_present"] = torch.tensor(index % 2 == 1 or index < 8)
    model = make()
    before = {k: v.clone() for k, v in model.model.state_dict().items() if "agreement" in k}
    state = _fit(model, tmp_path, tiny_runs.loader(rows)).state
    assert all(torch.equal(state[k], v) for k, v in before.items())


def test_as_many_directions_are_aligned_as_rows_have():
    torch.manual_seed(0)
    agreement = Agreement((48, 40), 36, 2, 0.3).double()
    before = agreement.similarity.down_image.weight.clone()
    image, text = torch.randn(64, 48).double(), torch.randn(4, 40).double()
    labels = torch.eye(2)[torch.arange(64) % 2]
    agreement.start_from_rows(image, text[torch.randint(4, (64,))], labels)  # four texts
    down = agreement.similarity.down_image.weight
    assert torch.equal(down[3:], before[3:])
    assert not torch.isclose(down[:3], before[:3]).all(dim=1).any()
    # all the same, so nothing is in common
    same = Agreement((48, 40), 36, 2, 0.3).double()
    same.start_from_rows(image[:1].expand(64, 48), image[:, :40], labels)
    assert all(value.isfinite().all() for value in same.state_dict().values())


@pytest.mark.parametrize("precision", ["bf16-true", "64-true", "bf16-mixed"])
def test_other_precisions_start_too(precision, make, tmp_path):
    state = _fit(make(missing_aware_head=True), tmp_path, precision=precision).state
    assert state["head.agreement.similarity.norm_image.bias"].any()
    assert state["head.alone.norms.0.bias"].any()
    assert all(value.isfinite().all() for value in state.values())


@pytest.mark.parametrize("options", [{"head_norm": "joint"}, {"head_inputs": "pooled"}])
def test_other_heads_align_too(options, make, tmp_path):
    state = _fit(make(**options), tmp_path).state
    assert state["head.agreement.similarity.norm_text.bias"].any()


def test_several_labels_a_sample_align_too(make, tmp_path):
    rows = tiny_runs.samples(48, multilabel=True)
    state = _fit(make(task="multilabel"), tmp_path, tiny_runs.loader(rows)).state
    assert state["head.agreement.similarity.norm_text.bias"].any()


def test_prompts_that_overflow_align_nothing(make, tmp_path):
    model = make()
    before = {k: v.clone() for k, v in model.model.state_dict().items() if "agreement" in k}
    with torch.no_grad():
        model.model.prompts.image.fill_(float("inf"))
    with pytest.raises(TrainingError, match="nan"):
        _fit(model, tmp_path)
    after = model.model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


def _compared(model, rows):
    """What an untrained model compares, a row at a time."""
    seen = []
    agreement = model.model.head.agreement
    handle = agreement.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[:2]))
    model.eval()
    with torch.no_grad():
        for row in rows:
            model(next(iter(tiny_runs.loader([row]))))
    handle.remove()
    return [torch.cat(vectors) for vectors in zip(*seen, strict=True)]


def test_a_search_for_a_learning_rate_leaves_the_start_to_the_fit(make, tmp_path):
    rows = tiny_runs.samples(48)
    plain = _fit(make(), tmp_path / "plain", tiny_runs.loader(rows)).state
    seen = _AtFirstBatch()
    finder = LearningRateFinder(num_training_steps=3, update_attr=False)
    trainer = tiny_runs.trainer(tmp_path / "found", max_epochs=1, callbacks=[finder])
    model = make()
    trainer.callbacks.append(seen)
    seen.state = {}  # of the search's own steps nothing is kept
    finder.on_fit_start = _then(finder.on_fit_start, lambda: setattr(seen, "state", None))
    trainer.fit(model, tiny_runs.loader(rows))
    assert all(torch.equal(seen.state[key], value) for key, value in plain.items())


def _then(first, second):
    def both(*arguments):
        first(*arguments)
        second()

    return both
