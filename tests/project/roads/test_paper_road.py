"""runs/paper.sh and runs/second_language.sh: every command they would run is one that this repository answers to."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from echox import load_recipe
from echox.audio import save_audio
from echox.data.corpora.bilingual import read_facts
from echox.data.manifest import Utterance, audio_path, read_dialogues, read_utterances, write_utterances
from markdown_commands import ROOT, check_command


def dry_run(python: str, **environment: str) -> str:
    chosen = {**os.environ, "PYTHON": python, **environment}
    command = [str(ROOT / "runs/paper.sh"), "--dry-run"]
    return subprocess.run(command, env=chosen, check=True, capture_output=True, text=True).stdout


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("size", ["3b", "8b"])
def test_every_command_of_the_paper_road_parses_and_its_recipes_load(size):
    lines = dry_run("true", SIZE=size, PARALLEL="fsdp").splitlines()
    stages = []
    for line in lines:
        words = shlex.split(line)
        if words[0] == "curl":
            continue
        assert words[0] == "true", line
        if "torch.distributed.run" in words:  # its own options end at the second -m
            words = ["python", *words[words.index("-m", 2) :]]
        words = [word.removeprefix(f"{ROOT}/") for word in words]
        check_command(shlex.join(["python", *words[1:]]))
        recipes = [place for place, word in enumerate(words) if word.endswith(".yaml")]
        for place in recipes:
            overrides = [word for word in words[place + 1 :] if "=" in word]
            stages.append(load_recipe(ROOT / words[place], overrides).stage)
    assert stages == [
        *["prepare_data"] * 4,
        "language_model",
        "align",
        "extract_units",
        "unit_language",
        "published_vocoder",
        "s2t",
        "t2c",
        "echo",
        "package",
    ]


def test_the_road_hands_on_what_it_makes():
    """What one recipe of the road writes is what the next reads."""
    s2t, t2c, echo, package = (
        load_recipe(ROOT / f"recipes/3b/{name}.yaml") for name in ("s2t", "t2c", "echo", "package")
    )
    ready, align, extract, language = (
        load_recipe(ROOT / f"recipes/3b/{name}.yaml")
        for name in ("language_model", "align", "extract_units", "unit_language")
    )
    assert ready.output_dir == s2t.model.language_model == t2c.data.language_model
    assert (align.output, extract.output) == (extract.utterances, t2c.data.units)
    assert (extract.output, extract.save_extractor) == (language.data.units, language.data.extractor)
    assert language.output_dir == t2c.data.unit_language
    assert (s2t.training.output_dir, t2c.training.output_dir) == (echo.model.s2t, echo.model.t2c)
    assert (echo.training.output_dir, echo.model.vocoder) == (package.parts.echo, package.parts.vocoder)
    corpora = re.search(r"for corpus in ([^;]+); do\n  limit", (ROOT / "runs/paper.sh").read_text())[1].split()
    assert {Path(path).parent.name for path in [*s2t.data.manifests, *echo.data.speech]} < set(corpora)
    shards = load_recipe(ROOT / "recipes/3b/dialogue_shards.yaml")
    assert s2t.data.manifests[0] == f"{shards.output_dir}/dialogue_shards"
    packed = re.search(r"for corpus in ([^;]+); do\n  once \"shards-", (ROOT / "runs/paper.sh").read_text())[1].split()
    assert [Path(path).parent.name for path in s2t.data.manifests] == packed


@pytest.mark.slow
def test_the_dry_run_checks_the_recipes_itself():
    assert dry_run(sys.executable).count(", loads") == 9


def test_an_unknown_size_is_refused():
    with pytest.raises(subprocess.CalledProcessError):
        dry_run("true", SIZE="7b")


def test_manifests_between_corpora_and_stages(tmp_path):
    manifests = script("paper_manifests")
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = []
    for number, speaker in enumerate(("audioqa/user", "audioqa/assistant")):
        save_audio(folder / f"{number}.wav", np.zeros(1600, np.float32), 16000)
        rows.append(Utterance(f"u{number}", f"{number}.wav", "Hello there.", speaker, 0.1))
    write_utterances(folder / "utterances.jsonl", rows)
    assert manifests.main(["recognition", str(folder)]) == 0
    dialogue = read_dialogues(folder / "dialogues.jsonl")[1]
    assert [turn.role for turn in dialogue.turns] == ["system", "user", "assistant"]
    assert dialogue.turns[1].audio == "1.wav"
    assert dialogue.turns[2].text == "Hello there."
    assert manifests.main(["replies", str(tmp_path / "replies"), str(folder)]) == 0
    (reply,) = read_utterances(tmp_path / "replies" / "utterances.jsonl")
    assert reply.id == "corpus/u1"
    assert audio_path(tmp_path / "replies" / "utterances.jsonl", reply.audio).resolve() == folder / "1.wav"
    (tmp_path / "texts").mkdir()
    write_utterances(tmp_path / "texts" / "utterances.jsonl", [])
    with pytest.raises(ValueError, match="texts.utterances.jsonl: expected recordings .* found none"):
        manifests.replies(tmp_path / "none", [folder, tmp_path / "texts"])
    assert not (tmp_path / "none").exists()


def test_costs_grow_with_the_hours():
    costs = script("paper_costs")
    once, more = costs.gpu_hours("3b"), costs.gpu_hours("3b", 100)
    assert all(more[stage] == pytest.approx(100 * hours) for stage, hours in once.items())
    assert sum(costs.gpu_hours("8b").values()) > sum(once.values())


def test_facts_become_three_kinds_of_questions():
    questions = read_facts(ROOT / "recipes/new_language/facts_de.yml", max_items=0, heldout_part=0.1)
    assert {question.topic for question in questions} == {
        "de/hauptstadt",
        "en/hauptstadt",
        "de/gegenteil",
        "en/gegenteil",
        "en/uebersetzung",
    }
    dog = next(one for one in questions if one.text == "The dog is sleeping.")
    assert dog.answer == "Der Hund schläft."
    heldout = [one for one in questions if one.split == "heldout"]
    assert 0.05 < len(heldout) / len(questions) < 0.2
    assert len({one.id for one in questions}) == len(questions)
    with pytest.raises(ValueError, match="expected topics with rows"):
        read_facts(ROOT / "recipes/nano/lm.yaml", 0, 0.1)


def test_second_language_names_recipes_that_take_its_overrides():
    text = (ROOT / "runs/second_language.sh").read_text().replace("\\\n", " ")
    few = re.search(r"^few=\((.*)\)$", text, re.MULTILINE)[1].split()
    found = 0
    for line in text.splitlines():
        if line.startswith("stage "):
            filled = line.replace('"${few[@]}"', " ".join(few)).replace("$out", "o").replace("$repository", str(ROOT))
            _, _, recipe, *overrides = shlex.split(filled)
            load_recipe(ROOT / f"recipes/{recipe}.yaml", [word for word in overrides if word != "--"])
            found += 1
    assert found == 12


def test_the_document_has_the_costs_that_the_script_gives(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["paper_costs.py"])
    script("paper_costs").main()
    assert capsys.readouterr().out.strip() in (ROOT / "docs/scaling.md").read_text(encoding="utf-8")


def fake_python(folder: Path, prepare_s: float, fails: str = "never") -> Path:
    """Stands for Python in runs/paper.sh: preparing takes a while, everything notes when it began, on which node."""
    path = folder / "python"
    path.write_text(
        "#!/usr/bin/env bash\n"
        f'echo "$(date +%s.%N) $NODE_RANK $*" >> {folder}/calls\n'
        f'case "$*" in *{fails}*) exit 3;; *torch.distributed*) ;; *) sleep {prepare_s};; esac\n'
    )
    path.chmod(0o755)
    return path


def start_node(folder: Path, rank: int, **changes) -> subprocess.Popen:
    environment = {
        **os.environ,
        "PYTHON": str(folder / "python"),
        "NODES": "2",
        "NODE_RANK": str(rank),
        "WORK": str(folder),
        "PATH": f"{folder}:{os.environ['PATH']}",
        "POLL_S": "1",
        **changes,
    }
    return subprocess.Popen(
        [str(ROOT / "runs/paper.sh")], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_other_nodes_wait_until_the_first_has_prepared(tmp_path):
    """Node 1 starts first; no torchrun of its begins before the first node's preparation has ended."""
    fake_python(tmp_path, prepare_s=0.1)
    curl = tmp_path / "curl"
    curl.write_text("#!/bin/sh\n")
    curl.chmod(0o755)
    nodes = [start_node(tmp_path, rank) for rank in (1, 0)]
    outputs = [node.communicate(timeout=120)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    calls = [line.split(maxsplit=2) for line in (tmp_path / "calls").read_text().splitlines()]
    trains = {
        rank: [float(began) for began, by, what in calls if by == rank and "torch.distributed" in what] for rank in "01"
    }
    assert len(trains["0"]) == len(trains["1"]) == 3
    prepared = max(float(began) for began, by, what in calls if what.endswith("published_vocoder.yaml"))
    assert min(trains["1"]) > prepared
    assert all("torch.distributed" in what for _, by, what in calls if by == "1"), "the first node prepares alone"
    assert "waiting for the first node" in outputs[0]


def test_a_training_that_was_asked_to_stop_is_followed_by_none(tmp_path):
    fake_python(tmp_path, prepare_s=0)
    (tmp_path / "stop").touch()
    (tmp_path / "out" / "paper").mkdir(parents=True)
    node = start_node(tmp_path, 0, ECHOX_STOP_FILE=str(tmp_path / "stop"))
    assert "asked to stop" in node.communicate(timeout=60)[0]
    assert node.returncode == 75
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    assert not list((tmp_path / "out" / "paper").glob(".done-*"))


def test_a_failure_on_the_first_node_ends_the_others(tmp_path):
    fake_python(tmp_path, prepare_s=0, fails="import*audioqa")
    (tmp_path / "out" / "paper").mkdir(parents=True)
    (tmp_path / "out" / "paper" / ".failed").write_text("of a run before\n")
    other = start_node(tmp_path, 1)
    while not (tmp_path / "out" / "paper" / ".started-1").exists():
        assert other.poll() is None
    first = start_node(tmp_path, 0)
    assert first.wait(timeout=60) == 1
    said = other.communicate(timeout=60)[0]
    assert other.returncode == 1
    assert "import-audioqa: failed on the first node" in said
