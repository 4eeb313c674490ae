"""Options that belong to one mode of a command are refused in every other one, by name and before any work."""

import pytest
from typer.testing import CliRunner

from echox.cli.main import app

SERVE, CARD = ("serve", "--port", "0"), ("eval", "card", "--model", "nowhere")
RAY = [("--ray-address", "auto"), ("--min-replicas", "1"), ("--max-replicas", "2"), ("--gpus", "0")]
TURN = [("--turn-username", "me"), ("--turn-password", "secret")]
CALLS = [("--media-host", "127.0.0.1"), ("--ice-server", "stun:example.org"), *TURN]
NANO_CARD = [(f"--{name}", f"{name}.json") for name in ("latency", "voice", "conditions", "agreement")]
SERVER = ("--server", "http://127.0.0.1:9/v1")
MODES = [  # a command in a mode, and the options of its other modes
    (SERVE, RAY),
    ((*SERVE, "--no-webrtc"), [*RAY, *CALLS]),
    ((*SERVE, "--ray"), CALLS),
    (SERVE, TURN),
    ((*SERVE, "--ice-server", "stun:example.org"), TURN),
    ((*CARD, "--run", "run"), NANO_CARD),
    ((*CARD, "--metrics", "metrics.json"), [("--cascade", "cascade.json")]),
    *((("eval", command), [("--server-model", "nano")]) for command in ("run", "latency")),
    *((("eval", command, *SERVER), [("--model", "nano"), ("--device", "cpu")]) for command in ("run", "latency")),
]
CASES = [(mode, option) for mode, options in MODES for option in options]


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch, tmp_path):
    """A server or evaluation that starts is a failure of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ECHOX_API_KEY", raising=False)
    for name in ("serving.launch.run_local", "serving.launch.run_on_ray", "evaluation.run.run_tasks"):
        monkeypatch.setattr(f"echox.{name}", lambda *_, **__: pytest.fail("it started"))


@pytest.mark.parametrize(("mode", "option"), CASES, ids=lambda words: " ".join(words))
def test_an_option_of_another_mode_is_refused(mode, option):
    result = CliRunner().invoke(app, [*mode, *option])
    assert result.exit_code == 1, result.output
    assert f"error: {option[0]}: expected only " in result.stderr


def test_all_that_are_given_are_named():
    result = CliRunner().invoke(app, [*SERVE, "--gpus", "1", "--min-replicas", "2"])
    assert "error: --min-replicas, --gpus: expected only with --ray" in result.stderr


@pytest.mark.parametrize(
    ("options", "replicas"),
    [((), (1, 1)), (("--min-replicas", "3"), (3, 3)), (("--min-replicas", "2", "--max-replicas", "5"), (2, 5))],
)
def test_replicas_on_ray(options, replicas, monkeypatch):
    started = []
    monkeypatch.setattr("echox.serving.launch.run_on_ray", lambda _, replicas, *__: started.append(replicas))
    assert CliRunner().invoke(app, [*SERVE, "--ray", *options]).exit_code == 0
    assert [(one.min_replicas, one.max_replicas) for one in started] == [replicas]


def test_fewer_replicas_at_most_than_at_least():
    result = CliRunner().invoke(app, [*SERVE, "--ray", "--min-replicas", "3", "--max-replicas", "2"])
    assert result.exit_code == 1
    assert "--max-replicas: expected at least --min-replicas (3), found 2" in result.stderr


def test_a_password_in_the_environment_is_no_option_of_this_command(monkeypatch):
    started = []
    monkeypatch.setenv("ECHOX_TURN_PASSWORD", "secret")
    monkeypatch.setattr("echox.serving.launch.run_local", lambda *given: started.append(given))
    assert CliRunner().invoke(app, [*SERVE, "--no-webrtc"]).exit_code == 0
    assert started


@pytest.mark.parametrize(("given", "name"), [("--metrics", "nano"), ("--run", "mini")])
def test_a_card_is_written_where_its_model_has_it(given, name, monkeypatch):
    written = []
    monkeypatch.setattr("echox.evaluation.model_card.write_model_card", lambda *given: written.append(given[3]))
    monkeypatch.setattr("echox.evaluation.model_card_mini.write_mini_card", lambda *given: written.append(given[3]))
    assert CliRunner().invoke(app, [*CARD, given, "some"]).exit_code == 0
    assert [str(path) for path in written] == [f"docs/model_card_{name}.md"]
