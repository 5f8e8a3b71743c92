"""Options that are refused, with a message that names them."""

import pytest

from epic_pl.utils.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"options": {"hub_widht": 8}}, "EPIC has no hub_widht; it has .*hub_width"),
        ({"optim": {"lr": 0.1, "lrr": 0.1}}, "OptimConfig has no lrr"),
        ({"optim": {True: 1, "lrr": 0.1}}, "OptimConfig has no True, lrr"),
        ({"encoders": {"image": {"nmae": "x"}}}, "EncoderConfig has no nmae"),
        ({"encoders": {"image": {}}}, "EncoderConfig: .*'name'"),
        ({"encoders": {"image": "vit"}}, "EncoderConfig needs a mapping of options, not 'vit'"),
        ({"num_classes": 1}, "num_classes is 1"),
        ({"num_classes": 1, "task": "multilabel"}, "question of two classes"),
        ({"class_names": ["a", "b"]}, "class_names has 2"),
        ({"task": "multilabel", "loss": {"pos_weight": [1.0]}}, "pos_weight has 1"),
        ({"options": {"interaction_layers": 9}}, "3 and 3 layers"),
        ({"optim": {"warmup": 500}}, "warmup is a probability, not 500"),
        ({"optim": {"lr": 0.0}}, "lr must be positive"),
        ({"optim": {"lr": float("nan")}}, "lr is nan, but must be of type float, and finite"),
        ({"optim": {"prompt_lr": -0.1}}, "prompt_lr must be positive"),
        ({"optim": {"weight_decay": -0.1}}, "weight_decay is at least 0"),
        ({"modality_dropout": -0.1}, "modality_dropout is a probability"),
        ({"head": {"dropout": 2.0}}, "dropout is a probability"),
        ({"options": {"hub": "sometimes"}}, "hub must be one of bottleneck, .*; got 'sometimes'"),
        ({"options": {"hub": None}}, "hub must be one of bottleneck, .*; got None"),
        ({"encoders": {"precision": "fp8"}}, "precision must be one of auto, .*; got 'fp8'"),
        ({"method": "Epic"}, "no Method 'Epic'; there are .*EPIC.* Did you mean"),
        ({"method": "torch.nn.Linear"}, "torch.nn.Linear cannot be used: it is no Method"),
        ({"method": "torch.nn.Liniar"}, "torch.nn has no such attribute"),
        ({"method": "no_such.Method"}, "no_such.Method cannot be imported: .*PYTHONPATH"),
        ({"method": 3}, "A Method is its class name with options, not 3"),
        ({"options": {"num_prompts": "x"}}, "num_prompts is 'x', but must be of type int"),
        ({"options": {"interaction_layers": None}}, "interaction_layers is None"),
        ({"method": {"class_path": "EPIC", "hub": "none"}}, "EPIC go into init_args: .*hub"),
        ({"loss": "CrossEntropi"}, "no Loss 'CrossEntropi'; there are CrossEntropy"),
        ({"loss": {"class_weights": "balanced"}}, "needs class_frequencies"),
        ({"loss": {"pos_weight": [1.0] * 3}}, "pos_weight does not apply to multiclass"),
        ({"task": "multilabel", "loss": {"class_weights": [1.0] * 3}}, "use pos_weight instead"),
        ({"loss": {"class_weights": [1.0, 2.0]}}, "class_weights has 2 entries"),
        ({"loss": {"class_weights": [1.0, -2.0, 1.0]}}, "class_weights .* above 0"),
        ({"task": "multilabel", "loss": {"pos_weight": [1.0, 0.0, 1.0]}}, "pos_weight .* above 0"),
        ({"loss": {"class_weights": [1.0, float("nan"), 1.0]}}, "class_weights is .*nan.* type"),
        ({"class_frequencies": [0.5, 0.5]}, "class_frequencies has 2 entries"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused_by_name(options, named, make):
    with pytest.raises(ConfigError, match=named):
        make(**options)
