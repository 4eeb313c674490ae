"""What the ablations compare: its switches do what they say, its plan loads, its results are found again."""

import json
import re
import shutil
import subprocess

import pytest
import torch
import torch.nn.functional as F

from echox import load_recipe
from echox.config import to_dict
from echox.evaluation.scoring.metrics import exist_match
from echox.evaluation.scoring.statistics import unseen_share
from echox.evaluation.studies import ablations
from echox.evaluation.studies.ablation_plan import Plan
from echox.evaluation.studies.ablation_report import figure, renew_tables, tables, write_report
from echox.evaluation.studies.ablation_tests import READ, T2T, WER, compared, question_interval, table_of_tests
from echox.evaluation.studies.ablations import AblationRunner, main
from echox.evaluation.studies.batched_scores.echo_scores import last_words, speak_after, speak_segments
from echox.evaluation.studies.batched_scores.questions import QuestionSet
from echox.models.echox.modeling_echox import DenoisingAdapter, EmbeddingGate
from echox.models.t2c.modeling_unit_decoder import UnitSequence
from echox.training.loop import run_recipe
from echox.training.stages.speaking.echo_targets import cut_replies, without_context
from echox.units.bpe import learn_bpe_language
from paths import ROOT
from test_echo_stage import TRIGGER
from tiny_echox import tiny_echox
from tiny_speaker import REPLIES, tokenizer

PLAN = ROOT / "runs" / "ablations.yaml"
EVIDENCE = ROOT / "runs" / "evidence.yaml"
WORDS = ROOT / "runs" / "unit_language.yaml"
MINI = ROOT / "runs" / "knowledge_mini.yaml"


def test_every_run_of_the_plan_is_a_recipe(tmp_path):
    plan = Plan.read(PLAN)
    assert set(plan.rows) == {*"abcdef", "together"}
    assert {name for names in plan.rows.values() for name in names} <= set(plan.runs)
    seeds = [seed for _, run, seed in plan.jobs() if not run.reference]
    assert seeds == sorted(seeds)
    runner = AblationRunner(plan, ROOT, tmp_path, tmp_path)
    for name, job, seed in plan.jobs():
        job.language = None  # learned from a corpus
        recipe = load_recipe(*runner.recipe(name, job, seed))
        assert recipe.training.seed == seed
        assert recipe.training.output_dir.endswith(f"{name}-s{seed}")


@pytest.mark.parametrize(("path", "most"), [(EVIDENCE, 1.4), (WORDS, 1.1), (MINI, 1.1)])
def test_the_evidence_compares_like_budgets(path, most, tmp_path):
    plan = Plan.read(path)
    runner = AblationRunner(plan, ROOT, tmp_path, tmp_path)
    budgets_s = {
        name: job.cpu_s_per_step * load_recipe(*runner.recipe(name, job, 0, languages=False)).training.steps
        for name, job in plan.runs.items()
        if job.train and job.cpu_s_per_step is not None
    }
    for pair in plan.tests:
        compared_s = [budgets_s[name] for name in pair if plan.runs[name].train]
        assert max(compared_s) <= most * min(compared_s)
    trained = [name for name, job in plan.runs.items() if job.train]
    assert set(trained) == set(budgets_s)
    assert [plan.runs[name].seeds for name in trained].count(3) >= 4


def test_unit_languages_differ_in_their_words_alone(tmp_path):
    plan = Plan.read(WORDS)
    runner = AblationRunner(plan, ROOT, tmp_path, tmp_path)
    recipes = []
    for name, job in plan.runs.items():
        recipe = load_recipe(*runner.recipe(name, job, 0, languages=False))
        assert recipe.model.form == "prefix"
        assert job.language["kind"] == "unit_language"
        recipe.training.steps, recipe.training.output_dir = 0, ""
        recipes.append(recipe)
    assert all(recipe == recipes[0] for recipe in recipes)
    assert {run.language["vocabulary_size"] for run in plan.runs.values()} == {200, 300, 1000, 3000}


def test_the_evidence_knows_its_cost(tmp_path):
    plan = Plan.read(EVIDENCE)
    runner = AblationRunner(plan, ROOT, tmp_path, tmp_path)
    cost = runner.cost()
    assert (cost["runs"], cost["not_estimated"]) == (13, [])
    assert cost["cpu_hours"] == pytest.approx((3 * (504 + 546 + 408 + 440) + 13 * 60) / 3600, abs=0.01)
    (tmp_path / "results").mkdir()
    kept = {"name": "direct", "seed": 0, "items": runner.items}
    (tmp_path / "results" / "direct-s0.json").write_text(json.dumps(kept), encoding="utf-8")
    assert runner.cost()["runs"] == 12
    plan.runs["direct"].cpu_s_per_step = None
    assert runner.cost()["not_estimated"] == ["direct"]


def test_mini_is_compared_from_one_finished_model(tmp_path):
    plan = Plan.read(MINI)
    plan.start_from = "folder"
    runner = AblationRunner(plan, ROOT, tmp_path, tmp_path)
    assert [name for name, _, _ in runner.plan.jobs()][:5] == ["cascade", "direct", "echo", "direct", "echo"]
    for name, job, seed in plan.jobs():
        model = load_recipe(*runner.recipe(name, job, seed)).model
        assert (model.s2t, model.t2c) == ("folder", "folder")
    assert runner.items == {
        "llama-questions": 150,
        "llama-questions-typed": 150,
        "web-questions-typed": 500,
        "utterances": 0,
    }


def test_what_was_measured_of_the_same_weights_is_not_measured_again(tmp_path):
    runner = AblationRunner(Plan.read(MINI), ROOT, tmp_path, tmp_path)
    counted = iter(range(9))
    layer = torch.nn.Linear(2, 2)

    questions = QuestionSet([], [("Paris",)], exist_match)

    def measured(*details):
        return runner._once("set", layer, questions, lambda: next(counted), *details)

    assert [measured(), measured(), measured("fused"), measured("fused")] == [0, 0, 1, 1]
    with torch.no_grad():
        layer.weight += 1
    assert measured() == 2
    questions.answers = [("Rome",)]
    assert [measured(), measured()] == [3, 3]
    runner.plan.judge = "another"
    assert measured() == 4


def test_typed_questions_are_compared_too():
    def result(name, seed, right):
        scores = {"t2t_answer": right.count("1") / len(right), "right": {"t2t_answer": right}}
        return {"name": name, "seed": seed, "what": name, "items": {}, "typed": {"web-questions": scores}}

    first = [result("direct", seed, "1000000000") for seed in range(3)]
    second = [result("cascade", 0, "1111100000")]
    by_name = {"direct": first, "cascade": second}
    table = table_of_tests(by_name, [["direct", "cascade"]], T2T)
    assert "T2T, first less second" in table
    assert re.search(r"Web Questions \| 3 and 1 \| -40\.0 \[-\d0\.0 to -10\.0\]", table)
    assert "direct" not in table_of_tests(by_name, [["direct", "cascade"]]).split("\n", 2)[2]  # nobody spoke
    drawn = tables(by_name, {"knowledge_mini": ["cascade", "direct"]})["knowledge_mini"]
    assert re.search(r"\| 10\.0 % \(10\.0 to 10\.0\) \[0\.0 to 30\.0\] \|", drawn)


def test_a_row_of_unknown_runs_is_refused(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(
        PLAN.read_text(encoding="utf-8").replace("fused_250, zero_shot,", "fused_250, no_shot,"), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"row a: expected names of runs, found no_shot"):
        Plan.read(path)


def test_a_result_on_other_items_is_measured_again(tmp_path):
    plan = Plan.read(PLAN)
    runner = AblationRunner(plan, ROOT, tmp_path, tmp_path)
    (tmp_path / "results").mkdir()
    kept = {"name": "echo", "seed": 0, "items": runner.items}
    (tmp_path / "results" / "echo-s0.json").write_text(json.dumps(kept), encoding="utf-8")
    assert runner.run("echo", plan.runs["echo"], 0) == kept
    assert runner.known("echo", plan.runs["echo"], 1) is None
    plan.utterances += 1
    assert runner.known("echo", plan.runs["echo"], 0) is None


def study_in(path, monkeypatch):
    """A plan on a model and questions of two tasks in files, and a runner whose trainings are noted, not run."""
    trained = []
    monkeypatch.setattr(ablations, "run_recipe", lambda path, overrides: trained.append(overrides))
    monkeypatch.setattr(AblationRunner, "measure", lambda *_: {"measured": len(trained)})
    (path / "recipes" / "mini").mkdir(parents=True)
    for name in ("echo", "direct_units"):
        shutil.copy(ROOT / "recipes" / "mini" / f"{name}.yaml", path / "recipes" / "mini")
    tasks = {}
    for name in ("llama-questions", "web-questions"):
        tasks[name] = path / f"{name}.tsv"
        tasks[name].write_text("question\tanswer\taudio\nWho?\tme\t1.wav\n", encoding="utf-8")
    (path / "1.wav").write_bytes(b"sound")
    for folder in ("model", "judge"):
        (path / folder).mkdir()
        (path / folder / "config.json").write_text("{}", encoding="utf-8")
    plan = Plan.read(MINI)
    plan.start_from, plan.judge = str(path / "model"), str(path / "judge")
    plan.questions, plan.typed = {"llama-questions": 1}, {"llama-questions": 1, "web-questions": 1}

    def runner(*more):
        return AblationRunner(plan, path, path / "data", path / "out", more, tasks)

    return plan, runner, tasks, trained


CHANGES = {
    "overrides": lambda path, plan, tasks: plan.runs["echo"].overrides.append("training.steps=7"),
    "stage": lambda path, plan, tasks: plan.stages["echo"]["overrides"].append("training.steps=7"),
    "whole": lambda path, plan, tasks: setattr(plan.runs["echo"], "whole", True),
    "system": lambda path, plan, tasks: setattr(plan, "system", "Be kind."),
    "judge": lambda path, plan, tasks: setattr(plan, "judge", "pocketsphinx"),
    "judge_trained_again": lambda path, plan, tasks: (path / "judge" / "config.json").write_text('{"a": 1}'),
    "start_from": lambda path, plan, tasks: setattr(plan, "start_from", "other"),
    "start_from_trained_again": lambda path, plan, tasks: (path / "model" / "config.json").write_text('{"a": 1}'),
    "question": lambda path, plan, tasks: tasks["web-questions"].write_text("question\tanswer\nWhy?\tme\n"),
    "answer": lambda path, plan, tasks: tasks["web-questions"].write_text("question\tanswer\nWho?\tyou\n"),
    "audio": lambda path, plan, tasks: (path / "1.wav").write_bytes(b"another sound"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_result_under_other_conditions_is_measured_again(change, tmp_path, monkeypatch):
    plan, runner, tasks, trained = study_in(tmp_path, monkeypatch)
    job = plan.runs["echo"]
    first = runner().run("echo", job, 0)
    assert runner().run("echo", job, 0) == first
    assert len(trained) == 1
    (tmp_path / "model" / "README.md").write_text("a note", encoding="utf-8")
    assert runner().known("echo", job, 0) == first
    CHANGES[change](tmp_path, plan, tasks)
    assert runner().known("echo", job, 0) is None
    assert runner().run("echo", job, 0) != first
    assert len(trained) == 2  # what was trained under other settings is not taken for this


def test_overrides_of_all_trainings_are_conditions_and_older_results_stay(tmp_path, monkeypatch):
    plan, runner, _, trained = study_in(tmp_path, monkeypatch)
    job = plan.runs["echo"]
    new = runner().run("echo", job, 0)
    assert runner("training.steps=9").known("echo", job, 0) is None
    old = {field: value for field, value in new.items() if field != "conditions"}
    (tmp_path / "out" / "results" / "echo-s0.json").write_text(json.dumps(old), encoding="utf-8")
    assert runner("training.steps=9").run("echo", job, 0) == old
    job.overrides = ["training.steps=7"]
    assert runner().known("echo", job, 0) is None
    assert len(trained) == 1


def test_a_finished_training_of_another_recipe_is_refused(tmp_path, monkeypatch):
    plan, runner, _, _ = study_in(tmp_path, monkeypatch)
    monkeypatch.setattr(ablations, "run_recipe", run_recipe)
    job = plan.runs["direct"]
    recipe = load_recipe(*runner().recipe("direct", job, 0))
    folder = tmp_path / "out" / "runs" / "direct-s0"
    folder.mkdir(parents=True)
    code = {"commit": None, "dirty": None}
    finished = {"steps": recipe.training.steps, "metrics": {}, "cost": {"cpu_s": 1.0}, "environment": code}
    (folder / "training_record.json").write_text(json.dumps(finished | {"recipe": to_dict(recipe)}), encoding="utf-8")
    monkeypatch.setattr(type(recipe), "build", None)  # a finished one loads nothing
    assert runner().run("direct", job, 0)["steps"] == recipe.training.steps
    with pytest.raises(ValueError, match=r"training\.learning_rate|training\.weight_decay"):
        runner("training.weight_decay=0.5").run("direct", job, 0)


def test_what_is_finished_is_reported_and_nothing_is_no_report(tmp_path, capsys):
    output, report = tmp_path / "out", tmp_path / "report"
    asked = [str(WORDS), "--data", str(tmp_path), "--output", str(output), "--report", str(report), "--measured"]
    assert main(asked) == 1
    assert "expected finished measurements" in capsys.readouterr().err
    assert not report.exists()
    plan = Plan.read(WORDS)
    items = AblationRunner(plan, ROOT, tmp_path, output).items
    kept = {"name": "single_units", "seed": 0, "what": "", "items": items}
    (output / "results").mkdir(parents=True)
    (output / "results" / "single_units-s0.json").write_text(json.dumps(kept), encoding="utf-8")
    assert main(asked) == 0
    assert json.loads((report / "ablations.json").read_text(encoding="utf-8")) == [kept]


def test_report_renews_tables_and_draws(tmp_path):
    document = tmp_path / "ablations.md"
    document.write_text("before\n<!-- table e -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    scores = {"s2t_answer": 0.9, "s2s_answer": 0.7, "gap": 0.2, "reply_wer": 0.1, "unit_error": 0.03}
    results = [
        {
            "name": "echo",
            "seed": seed,
            "what": "all of it",
            "cpu_s_per_step": 0.4,
            "segments": {"heldout_seen_voices": scores | {"s2s_answer": 0.7 + seed / 10}},
        }
        for seed in range(2)
    ]
    write_report(results, {"e": ["echo", "prefix"]}, tmp_path)
    text = document.read_text(encoding="utf-8")
    assert "old" not in text
    assert text.startswith("before\n<!-- table e -->\n| run |")
    assert "| `echo` | all of it | 2 | 90.0 % (90.0 to 90.0) | 75.0 % (70.0 to 80.0) |" in text
    assert text.endswith("<!-- end -->\nafter\n")
    assert (tmp_path / "images" / "ablations_speech.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="one mark for each"):
        renew_tables("nothing", {"e": ""})
    assert figure([], "%") == "-"


def test_tables_have_intervals_over_questions_and_tests(tmp_path):
    document = tmp_path / "ablations.md"
    marks = "<!-- table e -->\n<!-- end -->\n<!-- table tests -->\n<!-- end -->\n"

    def result(name, seed, spoken):
        sets = {}
        for split, questions in (("heldout_seen_voices", 10), ("heldout_new_voices", 5)):
            right = {"s2t_answer": "1" * questions, "s2s_answer": spoken[:questions]}
            shares = {side: flags.count("1") / questions for side, flags in right.items()}
            sets[split] = shares | {"gap": 1 - shares["s2s_answer"], "right": right}
        items = {"heldout_seen_voices": 10, "heldout_new_voices": 5, "utterances": 3}
        return {"name": name, "seed": seed, "what": name, "items": items, "segments": sets}

    known = [result("echo", seed, "1111111100") for seed in range(3)] + [
        result("prefix", seed, "1100000000") for seed in range(3)
    ]
    document.write_text(marks, encoding="utf-8")
    write_report(known, {"e": ["echo", "prefix"]}, tmp_path, [["echo", "prefix"]])
    text = document.read_text(encoding="utf-8")
    assert re.search(r"80\.0 % \(80\.0 to 80\.0\) \[[345]0\.0 to 100\.0\]", text)
    assert re.search(
        r"known voices \| 3 and 3 \| \+60\.0 \[\+30\.0 to \+90\.0\] \| 0\.031 \(0\.062\) \| 0\.100 \(0\.200\) \|", text
    )
    for one in known:  # as older measurements are: the shares alone
        for scores in one["segments"].values():
            del scores["right"]
    document.write_text(marks, encoding="utf-8")
    write_report(known, {"e": ["echo", "prefix"]}, tmp_path, [["echo", "prefix"]])
    text = document.read_text(encoding="utf-8")
    assert re.search(r"\+60\.0 \[\+0\.0 to \+100\.0\] \| not recorded \| 0\.100 \(0\.200\) \| not recorded", text)


def test_speech_of_a_t2c_is_compared_text_by_text():
    def result(name, seed, errors, **more):
        read = {"word_errors": errors, "reference_words": [4, 6], "wer": sum(errors) / 10, "unfinished": 0.0}
        return {"name": name, "seed": seed, "what": name, "steps": 10 + seed, "items": {}, "t2c": read | more}

    first = [result("words", seed, [2, 3]) for seed in range(3)]
    second = [result("single", seed, [0, 1]) for seed in range(3)]
    interval = question_interval(first, READ)
    unseen = unseen_share(2)  # half of either text's words are wrong, but two texts are few
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.5, 0.5 - unseen / 2, 0.5 + unseen / 2))
    found = compared(first, second, READ)
    assert found.difference.mean == pytest.approx(0.4)  # of all words, not the mean of the texts' .5 and .33
    ends = (2 / 6 - unseen * (2 / 6 + 1), 2 / 4 + unseen * (1 - 2 / 4))
    assert (found.difference.low, found.difference.high) == pytest.approx(ends)
    assert (found.p_items, found.p_seeds, found.p) == (0.5, 0.1, 0.5)
    by_name = {"words": first, "single": second}
    table = tables(by_name, {"unit_language": ["single", "words"]})["unit_language"]
    assert "| `words` | words | 3 | 50.0 % (50.0 to 50.0) [7.9 to 92.1] |" in table
    assert "| 11 (10 to 12) |" in table
    tests = table_of_tests(by_name, [["words", "single"]], WER)
    assert (
        "| held-out texts | 3 and 3 | +40.0 [-78.9 to +92.1] | 0.500 (0.500) | 0.100 (0.100) | 0.500 (0.500) |" in tests
    )
    others = [result("single", seed, [0, 1], reference_words=[5, 5]) for seed in range(3)]
    assert compared(first, others, READ) is None
    assert "not recorded" in table_of_tests(by_name | {"single": others}, [["words", "single"]], WER)
    old = [{"name": "single", "seed": 0, "what": "single", "items": {}, "t2c": {"wer": 0.1}}]
    assert question_interval(old, READ) is None


def test_bpe_words_join_what_is_frequent():
    segments = [[1, 2, 3], [1, 2], [4, 1, 2], [3, 4]] * 5
    language = learn_bpe_language(segments, num_units=6, vocabulary_size=8, max_units_per_word=2)
    assert language.words[:6] == [(unit,) for unit in range(6)]
    assert (1, 2) in language.words
    assert all(len(word) <= 2 for word in language.words)
    assert language.decode(language.encode([4, 1, 2, 3, 5])) == [4, 1, 2, 3, 5]
    assert len(language.encode([1, 2])) == 1
    with pytest.raises(ValueError, match="at least the 6 single units"):
        learn_bpe_language(segments, num_units=6, vocabulary_size=5)


def test_without_adapter_and_without_states():
    states, embeddings = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    adapter = DenoisingAdapter(8, 20, dropout=0.0)
    adapter.become_identity()
    assert torch.allclose(adapter(states), states, atol=1e-6)
    with pytest.raises(ValueError, match="at least 16"):
        DenoisingAdapter(8, 15).become_identity()
    gate = EmbeddingGate(8)
    gate.close()
    assert torch.allclose(gate(states, embeddings), F.rms_norm(embeddings, (8,)), atol=1e-6)


def replies_cut(context_words):
    words = tokenizer()
    ids = torch.tensor([words(REPLIES[4], add_special_tokens=False)["input_ids"]])
    period = words(".", add_special_tokens=False)["input_ids"][-1]
    return ids, cut_replies(ids, (ids == period).float(), TRIGGER, words, context_words), words


def test_context_is_the_tail_of_the_segment_before():
    ids, segments, words = replies_cut(context_words=2)
    texts = [words.decode([token for token in row if token >= 0]).strip() for row in segments.token_ids.tolist()]
    assert texts == ["Red is a colour.", "a colour. Green is a colour too.", "colour too. Blue as well."]
    assert segments.context == [0, 2, 2]
    assert segments.owners == [(0, 0), (0, 2), (0, 7)]
    real = segments.token_ids >= 0
    assert torch.equal(ids.flatten()[segments.places][real], segments.token_ids[real])


def test_context_is_read_without_loss():
    model = tiny_echox().model
    _, segments, _ = replies_cut(context_words=2)
    count = max(max(row) for row in segments.word_ids.tolist()) + 1
    word_of = torch.tensor(
        [
            [word for word in range(max(row) + 1) for _ in range(2)] + [-1] * 2 * (count - 1 - max(row))
            for row in segments.word_ids.tolist()
        ]
    )
    said = torch.randint(len(tiny_echox().engine.unit_language), word_of.shape).masked_fill(word_of < 0, -100)
    states = torch.randn(*segments.token_ids.shape, 24)
    output = model.echo_decoder(states, segments.word_ids, said, word_of)
    own = without_context(output, segments, word_of)
    counted = (own.targets != -100).sum(1)
    words_each = torch.tensor([max(row) + 1 for row in segments.word_ids.tolist()])
    assert (
        counted.tolist() == (3 * (words_each - torch.tensor(segments.context))).tolist()
    )  # 2 unit words and an end each
    expected = F.cross_entropy(output.logits.flatten(0, 1), own.targets.flatten(), ignore_index=-100)
    assert torch.allclose(own.loss, expected)


def test_said_after_its_own_beginning_a_reply_ends_as_it_did():
    model = tiny_echox(seed=3).model.eval()
    model.echo_decoder.config.max_unit_words_per_word = 6  # random weights know no end
    ids, _, words = replies_cut(context_words=0)
    states = torch.randn(1, ids.shape[1], 24)
    whole = cut_replies(ids, torch.zeros(ids.shape), TRIGGER, words)
    (spoken,) = speak_segments(model, whole, states)
    pairs = list(zip(spoken.unit_words, spoken.word_of, strict=True))
    given = [[unit_word for unit_word, word in pairs if word == number] for number in range(4)]
    inputs = model.denoise(whole.of(states), whole.token_ids)[0]
    rest = speak_after(model, inputs, whole.word_ids[0].tolist(), given)
    assert rest.finished
    assert list(zip(rest.unit_words, rest.word_of, strict=True)) == [pair for pair in pairs if pair[1] >= 4]
    assert last_words(UnitSequence(*map(list, zip(*pairs, strict=True)), True), 2) == [
        [unit_word for unit_word, word in pairs if word == number] for number in sorted(set(spoken.word_of))[-2:]
    ]


@pytest.mark.slow
@pytest.mark.timeout(960)
def test_smoke_of_the_evidence():
    if not any((ROOT / folder / "echo").is_dir() for folder in ("out/nano", "out/smoke/out/nano")):
        pytest.skip("expected the outputs of runs/nano.sh")
    told = subprocess.run(
        [str(ROOT / "runs" / "evidence.sh"), "--smoke"], check=True, timeout=900, capture_output=True, text=True
    ).stdout
    assert '"cpu_hours"' in told.splitlines()[1]
    folder = ROOT / "out" / "smoke" / "evidence"
    results = json.loads((folder / "knowledge" / "ablations.json").read_text(encoding="utf-8"))
    assert {result["name"] for result in results} == {"cascade", "echo", "gated", "recorded", "direct"}
    assert all("s2s_answer" in result["segments"]["heldout_seen_voices"] for result in results)
    results = json.loads((folder / "unit_language" / "ablations.json").read_text(encoding="utf-8"))
    assert [len(result["t2c"]["word_errors"]) for result in results] == 6 * [2]
    assert json.loads((folder / "agreement.json").read_text(encoding="utf-8"))[0]["tasks"]
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.timeout(960)
def test_smoke_of_the_evidence_on_mini():
    if not (ROOT / "out/smoke_mini/out/mini/echo").is_dir():
        pytest.skip("expected the outputs of runs/mini.sh --smoke")
    subprocess.run([str(ROOT / "runs" / "evidence.sh"), "--smoke", "--only", "knowledge_mini"], check=True, timeout=900)
    folder = ROOT / "out" / "smoke" / "evidence"
    results = json.loads((folder / "knowledge_mini" / "ablations.json").read_text(encoding="utf-8"))
    assert {result["name"] for result in results} == {
        "cascade",
        "echo",
        "gated",
        "offline",
        "direct",
        "direct_slow",
        "shipped",
    }
    assert all("s2s_answer" in result["segments"]["llama-questions"] for result in results)
    (shipped,) = (result for result in results if "whole" in result)
    assert shipped["name"] == "shipped"
    assert "s2s_answer" in shipped["whole"]["llama-questions"]
    assert all(len(result["typed"]["web-questions"]["right"]["t2t_answer"]) == 2 for result in results)
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.timeout(960)
def test_smoke():
    if not any((ROOT / folder / "echo").is_dir() for folder in ("out/nano", "out/smoke/out/nano")):
        pytest.skip("expected the outputs of runs/nano.sh")
    subprocess.run([str(ROOT / "runs" / "ablations.sh"), "--smoke"], check=True, timeout=900)
    folder = ROOT / "out" / "smoke" / "ablations"
    results = json.loads((folder / "ablations.json").read_text(encoding="utf-8"))
    assert len(results) == len(list((folder / "results").iterdir())) >= 8
    assert {"segments", "t2c", "s2t"} <= {key for result in results for key in result}
    assert (folder / "images" / "ablations_speech.png").is_file()
    shutil.rmtree(folder)
