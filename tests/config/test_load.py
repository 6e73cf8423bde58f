"""Every mistake in a config is one line that names the file, the field and what to do."""

import json
from collections.abc import Sequence
from pathlib import Path

import json5
import pytest
from omegaconf import OmegaConf

from sonolume.config import sources
from sonolume.config.load import load_config, recipes
from sonolume.utils import files
from sonolume.utils.errors import UserError

TOP = '"recipe": "tta/audioldm", "exp_name": "x", "dataset": ["A"]'
BILLION = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
YAML = "recipe: tta/audioldm\nexp_name: x\ndataset: [A]\nmodel: {}\n"
pytestmark = pytest.mark.usefixtures("in_folder")


def write(name: str, text: str | bytes) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def mistake(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_are_the_published_setting() -> None:
    config = load_config(write("c.json", f'{{{TOP}, "model": {{}}}}'))
    assert (config.train.batch_size, config.train.max_steps, config.train.adam.lr) == (12, 1_000_000, 5e-5)
    assert config.model.audioldm.channel_mult == [1, 2, 4]
    assert config.preprocess.duration == 9.984


def test_chain_merges_sections_and_replaces_lists() -> None:
    write("base/b.json", f'{{{TOP}, "model": {{"audioldm": {{"num_heads": 4}}}}, "train": {{"batch_size": 3}}}}')
    path = write(
        "exp/c.json",
        """{ // comments, 'single quotes' and a last comma are fine
            "base_config": "../base/b.json",
            'dataset': ["B", "C"],
            "model": {"audioldm": {"channel_mult": [1, 2], "attention_resolutions": [2]}},
            "train": {"num_workers": 1},
        }""",
    )
    config = load_config(path)
    assert config.dataset == ["B", "C"]
    assert (config.train.batch_size, config.train.num_workers) == (3, 1)
    assert (config.model.audioldm.num_heads, config.model.audioldm.channel_mult) == (4, [1, 2])


def test_a_saved_config_loads_again() -> None:
    config = load_config(write("c.json", f'{{{TOP}, "model": {{"noise_scheduler": {{"prediction_type": "flow"}}}}}}'))
    files.write_json("out/config.json", config.to_dict())
    assert load_config(Path("out/config.json")) == config


def test_the_configs_here_need_no_slow_parser(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are JSON with // comments, which Python's own parser reads alike."""
    files = sorted((root / "egs").rglob("*.json"))
    expected = [json5.loads(file.read_text(encoding="utf-8")) for file in files]
    monkeypatch.setattr(json5, "loads", lambda *_, **__: pytest.fail("the slow parser"))
    found = [sources._json(file) for file in files]
    assert found and repr(found) == repr(expected)


def test_comments_end_with_their_line_and_are_none_in_texts() -> None:
    text = f'{{// "recipe": "x"\n{TOP}, // ""\n"log_dir": "s3://a//b\\"//c", "model": {{}}}} // "'
    assert load_config(write("c.json", text)).log_dir == 's3://a//b"//c'
    assert load_config(write("c.json", text.replace("{//", "{/* it's */ //"))).log_dir == 's3://a//b"//c'


def test_plain_values_are_those_of_omegaconf(root: Path) -> None:
    for file in sorted((root / "egs").rglob("*.json")):
        config = load_config(file)
        slow = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True)
        assert repr(config.to_dict()) == repr(slow), file


def test_numbers_may_stand_for_texts_and_interpolations_for_values() -> None:
    train = '"train": {"devices": 2, "batch_size": "${train.num_workers}"}'
    text = f'{{{TOP}, "model": {{"latent_scale": 0.18}}, {train}}}'
    config = load_config(write("c.json", text))
    assert (config.model.latent_scale, config.train.devices, config.train.batch_size) == ("0.18", "2", 2)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('"train": {"lrr": 1}', "train.lrr: no such field (did you mean 'adam.lr'?)"),
        ('"train": {"adam": {"lrr": 1}}', "train.adam.lrr: no such field (did you mean 'lr'?)"),
        ('"batch_size": 1', "batch_size: no such field (did you mean 'train.batch_size'?)"),
        ('"zzz": 1', "zzz: no such field (there are: recipe, exp_name, log_dir, dataset, preprocess, model, train, "),
        ('"_target_": "os.system"', "_target_: no such field"),
        ('"train": 3', "train: needs a section {...}, got the number 3"),
        ('"train": null', "train: needs a section {...}, got null"),
        ('"train": {"adam": [1]}', "train.adam: needs a section {...}, got a list [...]"),
        ('"train": {"batch_size": "12"}', "train.batch_size: needs a whole number, got the text '12'"),
        ('"train": {"batch_size": 1.5}', "train.batch_size: needs a whole number, got the number 1.5"),
        ('"train": {"batch_size": true}', "train.batch_size: needs a whole number, got true"),
        ('"train": {"gradient_clip": NaN}', "train.gradient_clip: needs a number, got the number nan"),
        ('"train": {"compile": 1}', "train.compile: needs true or false, got the number 1"),
        ('"train": {"precision": {}}', "train.precision: needs a text, got a section {...}"),
        ('"train": {"adam": {"betas": [0.9, "x"]}}', "train.adam.betas[1]: needs a number, got the text 'x'"),
        ('"train": {"lr_schedule": "cosin"}', "needs one of constant, cosine, linear, got the text 'cosin'"),
        ('"train": {"final_lr": 1.0}', "train.final_lr 1 must be at most train.adam.lr"),
        (
            '"preprocess": {"miniworld": {"kinds": "bell"}}',
            "preprocess.miniworld.kinds: needs a list [...], got the text",
        ),
        ('"log_dir": "a", "train": {"batch_size": "${log_dir}"}', "train.batch_size: While dereferencing"),
        ('"train": {"precision": "${nope}"}', "Interpolation key 'nope' not found"),
        # what fits the schema but not together
        ('"exp_name": "../x"', "exp_name must be the name of a folder in log_dir, got '../x'"),
        ('"train": {"batch_size": 0}', "train.batch_size must be at least 1, got 0"),
        ('"train": {"ema_decay": 1.0}', "train.ema_decay must be at least 0 and below 1, got 1.0"),
        ('"train": {"adam": {"betas": [0.9]}}', "train.adam.betas must be two numbers in [0, 1), got [0.9]"),
        ('"train": {"dataset_weights": [1, 2]}', "train.dataset_weights: has 2 numbers for 1 entries of dataset"),
        ('"train": {"dataset_weights": [0]}', "train.dataset_weights must be above 0, got [0.0]"),
        ('"train": {"strategy": "ddp_spawn"}', "train.strategy ddp_spawn is not supported: choose ddp"),
        ('"preprocess": {"hop_size": 4096}', "hop_size 4096 <= win_size 1024 <= n_fft 1024 does not hold"),
        ('"preprocess": {"fmax": 9000}', "fmax 9000.0 <= half of sample_rate 16000 does not hold"),
        ('"preprocess": {"cond_mask_prob": 1}', "preprocess.cond_mask_prob must be at least 0 and below 1, got 1.0"),
    ],
)
def test_a_wrong_field(body: str, message: str) -> None:
    top = TOP if '"exp_name"' not in body else TOP.replace('"exp_name": "x", ', "")
    found = mistake(write("c.json", f'{{{top}, "model": {{}}, {body}}}'))
    assert found.startswith("c.json: ") and message in found


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('"num_heads": 5', "model_channels 256 x 1 of channel_mult is not divisible by num_heads 5"),
        ('"model_channels": 48', "model_channels 48 x 1 of channel_mult is not divisible by norm_num_groups 32"),
        ('"attention_resolutions": [8]', "attention_resolutions [8] are not down factors of channel_mult: choose from"),
        ('"in_channels": 8', "in_channels 8 differs from out_channels 4"),
    ],
)
def test_a_wrong_unet(body: str, message: str) -> None:
    found = mistake(write("c.json", f'{{{TOP}, "model": {{"audioldm": {{{body}}}}}}}'))
    assert found.startswith("c.json: model.audioldm") and message in found


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            '"model": {"latent_scale": "big"}',
            "model.latent_scale must be \"auto\" or a number of at least 0, got 'big'",
        ),
        (
            '"model": {"noise_scheduler": {"beta_start": 0.5}}',
            "model.noise_scheduler: 0 < beta_start 0.5 < beta_end 0.012 < 1 does not hold",
        ),
        (
            '"model": {"noise_scheduler": {"prediction_type": "flow", "min_snr_gamma": 5}}',
            "model.noise_scheduler.min_snr_gamma 5.0 has no meaning with prediction_type flow",
        ),
    ],
)
def test_a_wrong_model(body: str, message: str) -> None:
    assert mistake(write("c.json", f"{{{TOP}, {body}}}")).startswith(f"c.json: {message}")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('"model": {}, "preprocess": {"frames": 100}', "preprocess.frames 100 is not divisible by 16, the down factor"),
        ('"model": {}, "preprocess": {"n_mel": 70}', "preprocess.n_mel 70 is not divisible by 16"),
        ('"model": {"autoencoderkl": {"ch": 30}}', "ch 30 x 1 of ch_mult is not divisible by norm_num_groups 32"),
        ('"model": {"autoencoderkl": {"double_z": false}}', "model.autoencoderkl.double_z must be true"),
        ('"model": {"loss": {"min_adapt_d_weight": 11}}', "min_adapt_d_weight 11.0 is above max_adapt_d_weight 10.0"),
    ],
)
def test_a_wrong_vae(body: str, message: str) -> None:
    found = mistake(write("c.json", f"{{{TOP.replace('audioldm', 'autoencoderkl')}, {body}}}"))
    assert found.startswith("c.json: ") and message in found


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_text_that_no_path_can_hold(name: str) -> None:
    content = {"recipe": "tta/audioldm", "exp_name": name, "dataset": ["a"], "model": {}}
    assert mistake(write("c.json", json.dumps(content))).startswith("c.json: exp_name: contains a character")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "c.json:1:2: Unexpected end of input"),
        ('{\n "a" 1}', 'c.json:2:6: Unexpected "1"'),
        ('{\n "a": 1\n "b": 2}', "c.json:3:2: Unexpected '\"'; is a comma missing before it?"),
        ("", "c.json: Empty strings are not legal JSON5"),
        ("[]", "c.json: must be one object"),
        ('{"a": 1, "a": 2}', 'c.json: Duplicate key "a" found in object'),
        ('{"a":' * 5000, "c.json: sections or lists are nested too deeply"),
        (b"\xff\xfe{", "c.json:1: not UTF-8 (byte 0xff); save the file as UTF-8"),
        ('{"base_config": 3}', "c.json: base_config: must be a path"),
        ('{"base_config": "no.json"}', "c.json: base_config: no such file: no.json (it is relative to this file)"),
        ('{"base_config": "c.json"}', "c.json: base_config is circular: c.json -> c.json"),
        (f'{{"a": {"1" * 5000}}}', "c.json: Exceeds the limit"),
        ("{}", 'c.json: recipe: missing, for example "recipe": "tta/audioldm"'),
        ('{"recipe": "tta/audioldn"}', "c.json: recipe: no recipe 'tta/audioldn' (there are: "),
        ('{"recipe": "../utils/cli"}', "c.json: recipe: no recipe '../utils/cli' (there are: "),
        ('{"recipe": "tta/audioldm"}', "c.json: exp_name: missing"),
        ('{"recipe": "tta/audioldm", "exp_name": "x", "dataset": []}', "c.json: model: missing section"),
    ],
)
def test_a_wrong_file(text: str | bytes, message: str) -> None:
    assert mistake(write("c.json", text)).startswith(message)


def test_an_unknown_recipe_lists_those_that_exist() -> None:
    found = mistake(write("c.json", '{"recipe": "x"}'))
    assert {"tta/audioldm", "tta/autoencoderkl"} <= set(recipes())
    assert all(recipe in found for recipe in recipes())


def test_a_mistake_is_reported_in_the_file_that_holds_it() -> None:
    write("base.json", f'{{{TOP}, "model": {{}}, "train": {{"adam": {{"lrr": 1}}}}}}')
    path = write("c.json", '{"base_config": "base.json"}')
    assert mistake(path).startswith("base.json: train.adam.lrr: no such field (did you mean 'lr'?)")


def test_a_longer_cycle_is_shown_whole() -> None:
    for name, base in (("a", "b"), ("b", "c"), ("c", "b")):
        write(f"{name}.json", f'{{"base_config": "{base}.json"}}')
    assert mistake(Path("a.json")).endswith("base_config is circular: b.json -> c.json -> b.json")


def test_a_missing_file_and_a_folder() -> None:
    assert mistake(Path("no.json")) .startswith("no.json: no such file: expected a config file")
    Path("folder").mkdir()
    assert mistake(Path("folder")) .startswith("folder: cannot be read (Is a directory): expected a config file")


def test_overrides() -> None:
    path = write("c.json", f'{{{TOP}, "model": {{}}}}')
    given = ["train.batch_size=4", "train.adam.lr=1e-3", "+train.compile=true", "dataset=[X,Y]", 'exp_name="a b, c"']
    config = load_config(path, [*given, "train={num_workers: 7}", "train.lr_schedule=cosine", "model.vocoder=''"])
    assert (config.train.batch_size, config.train.adam.lr, config.train.compile) == (4, 1e-3, True)
    assert (config.dataset, config.exp_name, config.train.num_workers) == (["X", "Y"], "a b, c", 7)


def test_an_override_can_give_what_the_file_lacks() -> None:
    path = write("c.json", '{"recipe": "tta/audioldm", "dataset": [], "model": {}}')
    assert load_config(path, ["exp_name=mine"]).exp_name == "mine"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lrr=4", "command line: train.lrr: no such field (did you mean 'adam.lr'?)"),
        ("train.batch_size=many", "command line: train.batch_size: needs a whole number, got the text 'many'"),
        ("train.batch_size='4'", "command line: train.batch_size: needs a whole number, got the text '4'"),
        ("train=3", "command line: train: needs a section {...}, got the number 3"),
        ("train.batch_size=0", "command line: train.batch_size must be at least 1, got 0"),
        ("train", "command line: 'train' is not key=value: "),
        ("train.max_steps=" + "1" * 5000, "command line: 'train.max_steps=111"),
        ("train=" + "{a: " * 500, "command line: 'train={a: {a:"),
        ("exp_name=${exp_name}", "c.json: exp_name: "),
        ("train.adam.lr=1" + "0" * 400, "command line: train.adam.lr: needs a number, got the number 1000"),
        ("=3", "command line: '=3': only key=value can be given"),
        ("~train", "command line: '~train': only key=value can be given"),
        ("dataset=X,Y", "command line: 'dataset=X,Y': one value only; write a list as [a,b]"),
        ("recipe=tta/autoencoderkl", "command line: recipe cannot be overridden: choose another --config"),
    ],
)
def test_a_wrong_override(override: str, message: str) -> None:
    assert mistake(write("c.json", f'{{{TOP}, "model": {{}}}}'), override).startswith(message)


TEXTS = ("log_dir", "preprocess.processed_dir", "preprocess.train_file", "preprocess.valid_file", "model.vocoder")
LISTS = ("dataset", "preprocess.miniworld.kinds", "evaluation.embedders")


@pytest.mark.parametrize(
    ("form", "keys"), [("'" + "${{{0}}}" * 10 + "'", TEXTS), ("[" + ",".join(["'a${{{0}}}'"] * 300) + "]", LISTS)]
)
def test_interpolations_that_repeat_each_other(form: str, keys: Sequence[str]) -> None:
    """The first repeats the second, which repeats the third ..., so that resolving them takes minutes or years."""
    path = write("c.json", f'{{{TOP}, "model": {{}}}}')
    overrides = [f"{key}={form.format(other)}" for key, other in zip(keys, keys[1:], strict=False)]
    assert mistake(path, *overrides).startswith("c.json: too many interpolations")


def test_some_interpolations() -> None:
    config = load_config(write("c.json", f'{{{TOP}, "model": {{}}}}'), ["log_dir='a/${exp_name}/${model.vocoder}'"])
    assert config.log_dir == "a/x/"


def test_configs_that_are_too_long() -> None:
    """Their parsers take seconds for every 100,000 characters."""
    text = f'{{{TOP}, "model": {{}}}}'
    message = "has 100001 characters, a config at most 100000: name another file"
    assert mistake(write("c.json", text.ljust(100_001))) == f"c.json: {message}"
    assert mistake(write("c.yaml", YAML.ljust(100_001, "#"))) == f"c.yaml: {message}"
    error = mistake(write("c.json", text), "dataset=[" + "a," * 5000 + "a]")
    assert error.startswith("command line: 'dataset=[a,a,a") and error.endswith("at most 10000 can be given")


def test_a_device_has_no_end() -> None:
    base = mistake(write("c.json", '{"base_config": "/dev/zero"}'))
    assert base == "/dev/zero: is a device, not a file: expected a config file, such as exp_config.json"


def write_group() -> None:
    write("conf/train/small.yaml", "batch_size: 3\nadam:\n  lr: 1e-4\n")


def test_yaml_with_groups_and_overrides() -> None:
    write_group()
    path = write("conf/c.yaml", "defaults:\n  - train: small\n  - _self_\n" + YAML + "train:\n  num_workers: 1\n")
    config = load_config(path, ["train.max_steps=5"])
    assert (config.train.batch_size, config.train.adam.lr) == (3, 1e-4)
    assert (config.train.num_workers, config.train.max_steps) == (1, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (YAML + "train: {adam: {lrr: 1}}", "conf/c.yaml: train.adam.lrr: no such field (did you mean 'lr'?)"),
        (YAML + "preprocess: {n_mel: '80'}", "conf/c.yaml: preprocess.n_mel: needs a whole number, got the text '80'"),
        (YAML + "train: 3", "conf/c.yaml: train: needs a section {...}, got the number 3"),
        (YAML + "train: {batch_size: 0}", "conf/c.yaml: train.batch_size must be at least 1, got 0"),
        (YAML.replace("model: {}\n", ""), "conf/c.yaml: model: missing section"),
        (YAML + "base_config: x.json", "conf/c.yaml: base_config: no such field"),
        (YAML + "a: [", "conf/c.yaml:5:5: expected the node content"),
        (YAML + "\tb: 1", "conf/c.yaml:5:1: found character '\\t'"),
        (YAML + "exp_name: y", "conf/c.yaml:5:1: found duplicate key exp_name"),
        ("a: !!python/object:os.system x", "conf/c.yaml:1:4: could not determine a constructor"),
        ("- 1", "conf/c.yaml: Hydra cannot compose it: "),
        (YAML + "train: " + "[" * 500, "conf/c.yaml: sections or lists are nested too deeply"),
        (YAML + "train: " + "[" * 100 + "]" * 100, "conf/c.yaml: sections or lists are nested too deeply"),
        (YAML + "train: &a [*a]", "conf/c.yaml: sections or lists are nested too deeply"),
        (YAML + BILLION, "conf/c.yaml: sections or lists are nested too deeply, or too large"),
        ("hydra: null\n" + YAML, "conf/c.yaml: hydra: "),
        (YAML + "? null\n: 3\n", "conf/c.yaml: Hydra cannot compose it: Incompatible key type 'NoneType'"),
        (YAML + "train: {max_steps: '${train.max_steps}'}", "conf/c.yaml: train.max_steps: "),
        ("a: ${", "conf/c.yaml: Hydra cannot compose it"),
        ("defaults: 3\n", "conf/c.yaml: Hydra cannot compose it"),
        ("defaults: [{train: small}]\n" + YAML, "conf/c.yaml: Hydra cannot compose it: In 'c': Defaults list"),
        ("defaults: [{train: big}, _self_]\n" + YAML, "conf/c.yaml: Hydra cannot compose it: In 'c': Could not find"),
        ("", "conf/c.yaml: recipe: missing"),
        (b"\xff", "conf/c.yaml:1: not UTF-8 (byte 0xff)"),
    ],
)
def test_a_wrong_yaml(text: str | bytes, message: str) -> None:
    write_group()
    assert mistake(write("conf/c.yaml", text)).startswith(message)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (BILLION, "conf/train/small.yaml: sections or lists are nested too deeply, or too large"),
        ("a: &a [*a]", "conf/train/small.yaml: sections or lists are nested too deeply"),
        ("batch_size: [", "conf/train/small.yaml:1:14: expected the node content"),
        ("batch_size: 1\nbatch_size: 2", "conf/train/small.yaml:2:1: found duplicate key batch_size"),
        ("? null\n: 3\n", "conf/train/small.yaml: Hydra cannot compose it: Incompatible key type 'NoneType'"),
        (b"\xff", "conf/c.yaml: Hydra cannot compose it: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_a_wrong_group_of_a_yaml(group: str | bytes, message: str) -> None:
    write("conf/train/small.yaml", group)
    assert mistake(write("conf/c.yaml", "defaults: [{train: small}, _self_]\n" + YAML)).startswith(message)


def test_yml_is_refused() -> None:
    assert mistake(write("c.yml", YAML)) == "c.yml: Hydra reads only files that end in .yaml: rename it"
