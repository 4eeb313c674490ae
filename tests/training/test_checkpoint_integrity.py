"""A damaged checkpoint is named and never loaded; one setting continues from the one before it."""

import json
import random
import shutil

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from echox.training.checkpoints.checkpoint import checkpoints, live_tensors, load_weights
from echox.training.checkpoints.integrity import DamagedCheckpointError, read_state, write_state
from test_loop import ToyStage, run

FIELDS = {"step": 0, "wall_s": 0.0}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 12 steps with checkpoints at 9 and 12."""
    folder = tmp_path_factory.mktemp("run")
    run(folder, save_every_steps=9, keep_checkpoints=2)
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def resume(folder, **changes):
    stage = ToyStage()
    return stage, run(folder, stage, steps=14, save_every_steps=9, keep_checkpoints=2, **changes)


def flip(path, place=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 0x40
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["trainable.safetensors", "optimizer.pt", "recipe.yaml", "state.json"])
def test_a_flipped_bit_is_found_and_the_one_before_offered(copied, name):
    flip(checkpoints(copied)[-1] / name)
    with pytest.raises(
        DamagedCheckpointError, match=r"step_0000012.*step_0000009, before it, is whole: .*skip_damaged"
    ):
        resume(copied)
    resume(copied, skip_damaged=True)
    names = sorted(path.name for path in (copied / "checkpoints").iterdir())
    assert names == ["damaged_step_0000012", "step_0000009", "step_0000014"]


def test_no_whole_checkpoint_is_reported(copied):
    for path in checkpoints(copied):
        (path / "optimizer.pt").unlink()
    with pytest.raises(DamagedCheckpointError, match=r"missing: \['optimizer.pt'\].*resume=false"):
        resume(copied)
    resume(copied, skip_damaged=True)
    assert checkpoints(copied)[-1].name == "step_0000014"


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"step": 12}', "", "{" * 100_000, "\ud800", "[" * 100_000])
def test_odd_states_are_damage(copied, text):
    (checkpoints(copied)[-1] / "state.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(DamagedCheckpointError, match="step_0000012"):
        resume(copied)


@pytest.mark.parametrize(
    "change", [{"step": 11}, {"step": -1}, {"step": "12"}, {"step": True}, {"wall_s": float("nan")}]
)
def test_changed_numbers_are_damage_whether_or_not_they_are_signed(copied, change):
    path = checkpoints(copied)[-1]
    state = json.loads((path / "state.json").read_text())
    changed = {**state, **change}
    (path / "state.json").write_text(json.dumps(changed))
    with pytest.raises(DamagedCheckpointError):
        resume(copied)
    write_state(path, {name: value for name, value in changed.items() if name not in ("parts", "sha256")})
    with pytest.raises(DamagedCheckpointError):
        resume(copied)


def test_a_checkpoint_under_another_step_s_name_is_damage(copied):
    newest = checkpoints(copied)[-1]
    newest.rename(newest.with_name("step_0000013"))
    with pytest.raises(DamagedCheckpointError, match="found step 12"):
        resume(copied)


SHARDED = pytest.param(
    True, marks=pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed part")
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sharded", [False, SHARDED])
def test_weights_alone_are_the_averages_and_the_buffers(copied, sharded, dtype):
    newest = checkpoints(copied)[-1]
    saved = {name: load_file(newest / f"{name}.safetensors") for name in ("trainable", "average")}
    assert not torch.equal(saved["trainable"]["head.weight"], saved["average"]["head.weight"])
    if sharded:
        state = json.loads((newest / "state.json").read_text())
        for name in ("trainable.safetensors", "average.safetensors", "optimizer.pt"):
            (newest / name).unlink()
        tensors = {f"{kind}.{name}": value for kind, values in saved.items() for name, value in values.items()}
        dcp.save(tensors, checkpoint_id=newest / "sharded", no_dist=True)
        write_state(newest, {name: value for name, value in state.items() if name not in ("parts", "sha256")})
    objective = ToyStage().objective.to(dtype)
    load_weights(newest, objective)
    for name, value in live_tensors(objective).items():
        wanted = saved["average"].get(name, saved["trainable"][name])
        torch.testing.assert_close(value, wanted.to(value.dtype), rtol=0, atol=0)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(change=st.dictionaries(st.sampled_from(["step", "wall_s", "parts", "sha256", "x"]), json_values, min_size=1))
def test_no_state_file_raises_anything_else(tmp_path, change):
    (tmp_path / "part").write_bytes(b"x")
    write_state(tmp_path, {"step": 3, "wall_s": 1.0})
    before = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps({**before, **change}))
    if json.dumps({**before, **change}) == json.dumps(before):  # not ==, for which True is 1.0
        assert read_state(tmp_path, FIELDS)["step"] == 3
    else:
        with pytest.raises(DamagedCheckpointError):
            read_state(tmp_path, FIELDS)


def test_any_flipped_bit_is_found(tmp_path):
    (tmp_path / "part").write_bytes(bytes(1000))
    write_state(tmp_path, {"step": 3, "wall_s": 1.0})
    assert read_state(tmp_path, FIELDS)["step"] == 3
    rng = random.Random(0)
    for name in ("part", "state.json"):
        whole = (tmp_path / name).read_bytes()
        for _ in range(100):
            flip(tmp_path / name, rng.randrange(len(whole)))
            with pytest.raises(DamagedCheckpointError):
                read_state(tmp_path, FIELDS)
            (tmp_path / name).write_bytes(whole)
