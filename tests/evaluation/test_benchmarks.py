"""Benchmarks on files of a folder: beside lm-evaluation-harness's own reading, and what is said of
files that are wrong.
"""

import copy
import json
from pathlib import Path

import benchmark_items
import pytest
import torch
import yaml

from course_utils import cli
from course_utils.errors import CompressionError, CompressionWarning
from course_utils.evaluation import benchmarks, harness
from course_utils.evaluation.answers import encode_pair, log_probabilities
from course_utils.evaluation.benchmarks import programs, sources, squad

TASKS = ["hellaswag", "mmlu", "glue", "super_glue", "humaneval"]
SINGLE = ["hellaswag", *sources.GLUE, *sources.SUPER_GLUE]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {
        make.__name__: make(tmp_path_factory.mktemp(make.__name__))
        for make in (benchmark_items.original, benchmark_items.hub)
    }


@pytest.fixture(scope="module")
def found(folders, bundled):
    """For each of the two folders: what was measured, what the harness returned, the programs that
    were to be run.
    """
    out = {}
    for name, folder in folders.items():
        seen, written = {}, []

        def spy(*arguments, seen=seen):
            seen.update(harness.evaluated(*arguments))
            return seen

        def execute(given, written=written):
            written += given
            return [True, False, True][: len(given)]

        with (
            pytest.MonkeyPatch.context() as patched,
            pytest.warns(CompressionWarning, match="mmlu: not in .*: 55 of its 57 parts"),
        ):
            patched.setattr(benchmarks, "evaluated", spy)
            scores = benchmarks.run(*bundled, TASKS, folder, execute=execute)
        out[name] = (scores, seen, written)
    return out


def test_files_as_published_and_as_on_the_hub_give_the_same(found):
    (published, _, programs_a), (hub, _, programs_b) = found["original"], found["hub"]
    assert (
        list(published)
        == ["hellaswag", "mmlu", *sources.GLUE, *sources.SUPER_GLUE, "humaneval"]
        == list(hub)
    )
    for task, score in published.items():
        assert (score.scores, score.n, score.chance) == (
            hub[task].scores,
            hub[task].n,
            hub[task].chance,
        ), task
    assert programs_a == programs_b and len(programs_a) == 3


@pytest.fixture(scope="module")
def theirs(folders, bundled, tmp_path_factory):
    """lm-evaluation-harness on the hub's files, which it reads itself."""
    from lm_eval.tasks import TaskManager

    folder, end = folders["hub"], "00000-of-00001.parquet"
    places = {
        "hellaswag": folder / "hellaswag" / "data" / "validation",
        "mmlu_anatomy": folder / "mmlu" / "anatomy" / "test",
    }
    places |= {"mmlu_astronomy": folder / "mmlu" / "astronomy" / "test"}
    places |= {
        name: folder / "glue" / name / "validation"
        for name in sources.GLUE
        if not name.startswith("mnli")
    }
    places |= {
        "mnli": folder / "glue" / "mnli" / "validation_matched",
        "mnli_mismatch": folder / "glue" / "mnli" / "validation_mismatched",
    }
    places |= {
        name: folder
        / "super_glue"
        / {"sglue_rte": "rte", "wsc": "wsc.fixed"}.get(name, name)
        / "validation"
        for name in sources.SUPER_GLUE
    }
    tasks = []
    for name, place in places.items():
        files = {place.name: f"{place}-{end}"}
        shots = 0
        if place.name == "test":
            files, shots = {**files, "dev": f"{place.parent}/dev-{end}"}, 2
        settings = {"data_files": files, "cache_dir": str(tmp_path_factory.mktemp("cache"))}
        own = {
            "task": name,
            "dataset_path": "parquet",
            "dataset_name": None,
            "dataset_kwargs": settings,
            "num_fewshot": shots,
        }
        tasks.append(own if shots else {**own, "training_split": None})
    with harness.quiet(), squad.importable():
        homes = [
            benchmarks.tasks_folder() / home
            for home in ("hellaswag", "mmlu/default", "glue", "super_glue")
        ]
        made = TaskManager(include_defaults=False, include_path=homes).load(
            [{"group": "all", "task": tasks}]
        )["tasks"]
    return harness.evaluated(*bundled, dict(made), 8)


def numbers(results):
    return {
        key.split(",")[0]: value
        for key, value in results.items()
        if "," in key and "stderr" not in key
    }


@pytest.mark.parametrize("name", ["original", "hub"])
def test_the_harness_measures_the_same(found, theirs, name):
    scores, seen, _ = found[name]
    for task in SINGLE:
        assert scores[task].scores == numbers(theirs["results"][task]), task
        for ours, other in zip(seen["samples"][task], theirs["samples"][task], strict=True):
            assert [tuple(pair) for pair in ours["arguments"]] == [
                tuple(pair) for pair in other["arguments"]
            ], task
            for a, b in zip(ours["resps"], other["resps"], strict=True):
                assert abs(float(a[0][0]) - float(b[0][0])) < 1e-4


def test_examples_come_from_mmlus_dev_file(folders, theirs, bundled):
    for folder in folders.values():
        with pytest.warns(CompressionWarning, match="55 of its 57"):
            score = benchmarks.run(*bundled, "mmlu", folder, shots=2)["mmlu"]
        wanted = {
            name: theirs["results"][f"mmlu_{name}"]["acc,none"] for name in ("anatomy", "astronomy")
        }
        assert {name: part.scores["acc"] for name, part in score.parts.items()} == wanted
        assert (
            score.scores["acc"]
            == pytest.approx((5 * wanted["anatomy"] + 3 * wanted["astronomy"]) / 8)
            and score.n == 8
        )
        assert "2 of 57 subjects" in score.protocol and "2 examples" in score.protocol
    first = theirs["samples"]["mmlu_anatomy"][0]["arguments"][0][0]
    assert first.count("Answer:") == 3 and first.startswith(
        "The following are multiple choice questions"
    )


def test_examples_of_glue_come_from_its_training_file(tmp_path, bundled, monkeypatch):
    header, rows, _ = benchmark_items.GLUE["RTE"]
    benchmark_items.tabs(tmp_path / "RTE" / "dev.tsv", header, rows[:2])
    benchmark_items.tabs(
        tmp_path / "RTE" / "train.tsv", header, [(0, "It rains.", "It is wet.", "entailment")] * 2
    )
    seen = {}
    monkeypatch.setattr(
        benchmarks, "evaluated", lambda *given: seen.update(harness.evaluated(*given)) or seen
    )
    assert benchmarks.run(*bundled, ["rte"], tmp_path, shots=1)["rte"].n == 2
    asked = [sample["arguments"][0][0] for sample in seen["samples"]["rte"]]
    shown = "It rains.\nQuestion: It is wet. True or False?\nAnswer: True\n\n"
    assert asked == [
        f"{shown}{row[1]}\nQuestion: {row[2]} True or False?\nAnswer:" for row in rows[:2]
    ]


def test_a_long_head_of_a_function_is_told(tmp_path, bundled):
    benchmark_items.lines(
        tmp_path / "HumanEval.jsonl",
        [{**benchmark_items.HUMANEVAL[0], "prompt": "# a long story\n" * 200}],
    )
    assert (
        "1 of 1 items cut on the left"
        in benchmarks.run(*bundled, "humaneval", tmp_path, execute=lambda g: [True] * len(g))[
            "humaneval"
        ].protocol
    )


def test_no_sandbox_is_said_before_the_model_writes(folders, bundled, monkeypatch):
    def none(_programs):
        raise CompressionError("no sandbox")

    monkeypatch.setattr(benchmarks, "evaluated", lambda *given: pytest.fail("the model was asked"))
    with pytest.raises(CompressionError, match="no sandbox"):
        benchmarks.run(*bundled, "humaneval", folders["original"], execute=none)


def test_log_probabilities_and_both_accuracies_by_our_own_passes(found, bundled):
    model, tokenizer = bundled
    scores, seen, _ = found["original"]
    right = {"acc": 0, "acc_norm": 0}
    for sample, item in zip(seen["samples"]["hellaswag"], benchmark_items.HELLASWAG, strict=True):
        pairs = [tuple(pair[:2]) for pair in sample["arguments"]]
        assert pairs[0][0] == f"Baking bread: {item['ctx_a'].replace(' [step]', '')} Then"
        assert pairs[1][1] == " the bowl sings. to the moon for a very long time."
        own = log_probabilities(model, [encode_pair(tokenizer, *pair) for pair in pairs])
        for a, b in zip(own, sample["resps"], strict=True):
            assert abs(a - float(b[0][0])) < 1e-4
        by_character = [
            a / len(pair[1].removeprefix(" ")) for a, pair in zip(own, pairs, strict=True)
        ]
        right["acc"] += max(range(4), key=own.__getitem__) == item["label"]
        right["acc_norm"] += max(range(4), key=by_character.__getitem__) == item["label"]
    assert {name: n / 5 for name, n in right.items()} == scores["hellaswag"].scores
    low, high = scores["hellaswag"].interval("acc")
    assert 0 <= low < scores["hellaswag"].scores["acc"] < high <= 1
    assert scores["cola"].interval("mcc") is None and "chance 25%" in str(scores["hellaswag"])


def test_humaneval_runs_what_the_model_wrote_with_the_items_tests(found, bundled):
    model, tokenizer = bundled
    scores, _, written = found["original"]
    assert scores["humaneval"].scores == {"pass@1": 2 / 3} and scores["humaneval"].n == 3
    item = benchmark_items.HUMANEVAL[1]
    ids = tokenizer(item["prompt"], return_tensors="pt")["input_ids"]
    new = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=256, do_sample=False
    )[0, ids.shape[1] :]
    text = tokenizer.decode(new, skip_special_tokens=True)
    for end in programs.ENDS:
        text = text.split(end)[0]
    assert written[1] == f"{item['prompt']}{text}\n{item['test']}\ncheck({item['entry_point']})"
    assert "greedy, at most 256 tokens" in scores["humaneval"].protocol


def test_humaneval_is_asked_as_the_harness_asks():
    class Plain(yaml.SafeLoader):
        pass

    Plain.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    theirs = yaml.load(
        (benchmarks.tasks_folder() / "humaneval" / "humaneval.yaml").read_text(), Plain
    )
    ours = programs.config(benchmark_items.HUMANEVAL, lambda given: [True] * len(given), None)
    assert theirs["generation_kwargs"] == ours["generation_kwargs"]
    for name in ("output_type", "test_split", "doc_to_text", "num_fewshot"):
        assert theirs[name] == ours[name]
    # what `program` puts behind the continuation
    assert theirs["doc_to_target"] == "{{test}}\ncheck({{entry_point}})"


def test_a_compressed_folder_by_the_command(folders, tmp_path, capsys):
    out, data = str(tmp_path / "small"), str(folders["original"])
    assert cli.main(["compress", "bundled", "--method", "rtn", "--bits", "4", "--out", out]) == 0
    capsys.readouterr()
    assert (
        cli.main(
            [
                "evaluate",
                out,
                "--tasks",
                "hellaswag,humaneval",
                "--data",
                data,
                "--items",
                "2",
                "--json",
            ]
        )
        == 0
    )
    told = json.loads(capsys.readouterr().out)["tasks"]
    assert (
        set(told) == {"hellaswag", "humaneval"}
        and told["hellaswag"]["n"] == 2 == told["humaneval"]["n"]
    )
    assert (
        told["humaneval"]["scores"] == {"pass@1": 0.0}
        and len(told["hellaswag"]["intervals"]["acc_norm"]) == 2
    )
    for words, said in (
        (["--tasks", "hellaswag"], "--data FOLDER"),
        (["--data", data], "--tasks NAMES"),
    ):
        assert cli.main(["evaluate", out, *words]) == 1
        assert said in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.platform", "darwin")
        assert cli.main(["evaluate", out, "--tasks", "humaneval", "--data", data]) == 1
    assert "a sandbox of Linux, and this is darwin" in capsys.readouterr().err


def hellaswag(folder, **changes):
    row = {**benchmark_items.HELLASWAG[0], **changes}
    benchmark_items.lines(
        folder / "hellaswag_val.jsonl", [{k: v for k, v in row.items() if v is not None}]
    )


def write(name, content):
    def make(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return make


MMLU_ROW = b"Which?,a,b,c,d,A\n"
WRONG = {
    "nothing there": ("hellaswag", lambda f: None,
                      r"no file of its validation split .*hellaswag/hellaswag_val\.jsonl "
                      r".*hellaswag/validation-\*\.parquet"),
    "packed": ("mmlu", write("data.tar", b""),
               r"mmlu/test/abstract_algebra_test\.csv .* Unpack data\.tar first"),
    "empty": ("hellaswag", write("hellaswag_val.jsonl", b"\n"), "holds no items"),
    "not JSON": ("hellaswag", write("hellaswag_val.jsonl", b"{}\n{'a'"), r"line 2: not JSON"),
    "no item": ("hellaswag", write("hellaswag_val.jsonl", b"[1]"),
                "expected an item in braces, got list"),
    "not UTF-8": ("hellaswag", write("hellaswag_val.jsonl", b"\xff\xfe{"), "not UTF-8"),
    "a pointer": ("hellaswag",
                  write("hellaswag_val.jsonl", b"version https://git-lfs.github.com/spec/v1\n"),
                  "git lfs pull"),
    "a pointer to Parquet": ("hellaswag", write("validation-00000-of-00001.parquet",
        b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "no Parquet": ("hellaswag", write("validation-00000-of-00001.parquet", b"PAR"),
                   "not a Parquet file"),
    "a part": ("hellaswag", write("validation-00000-of-00002.parquet", b"PAR"), "1 of 2 parts"),
    "cut gz": ("humaneval", write("HumanEval.jsonl.gz", b"\x1f\x8b\x08\x00"), "not readable"),
    "no gz": ("humaneval", write("HumanEval.jsonl.gz", b"{}"), "not readable"),
    "a column is missing": ("hellaswag", lambda f: hellaswag(f, endings=None),
                            r"item 1: no 'endings'. hellaswag needs activity_label"),
    "endings are a text": ("hellaswag", lambda f: hellaswag(f, endings="one"),
                           "endings is 'one'; expected a list of 2 or more texts"),
    "a label too high": ("hellaswag", lambda f: hellaswag(f, label=4),
                         "label is '4'; expected a whole number from 0 to 3"),
    "a label as a word": ("hellaswag", lambda f: hellaswag(f, label="first"),
                          "label is 'first'; expected a whole number"),
    "a half label": ("hellaswag", lambda f: hellaswag(f, label=1.5),
                     "label is '1.5'; expected a whole number"),
    "a hidden label": ("hellaswag", lambda f: hellaswag(f, label=-1),
                       "this is a test file for a leaderboard"),
    "a header in MMLU": ("mmlu_anatomy", write("test/anatomy_test.csv",
        b"question,A,B,C,D,answer\n" + MMLU_ROW), "answer is 'answer'|answer is '-?"),
    "few columns in MMLU": ("mmlu_anatomy", write("test/anatomy_test.csv",
        MMLU_ROW + b"Which?,a,b\n"), "line 2: 3 columns; expected 6 without a line of names"),
    "no letter in MMLU": ("mmlu_anatomy", write("test/anatomy_test.csv", b"Which?,a,b,c,d,E\n"),
                          "answer is '-1'"),
    "another table": ("rte", write("RTE/dev.tsv", b"index\tpremise\tlabel\n0\ta\tentailment\n"),
                      r"no 'sentence1'; it has index, premise, label"),
    "another label": ("rte",
                      write("RTE/dev.tsv", b"index\tsentence1\tsentence2\tlabel\n0\ta\tb\tmaybe\n"),
                      "label is 'maybe'"),
    "SuperGLUE flat": ("multirc", write("MultiRC/val.jsonl", b'{"question": "?", "label": 1}\n'),
                       "no 'passage'; it has question, label"),
    "COPA without a kind": ("copa",
                            write("COPA/val.jsonl",
                                  b'{"premise": "a.", "choice1": "b", "choice2": "c", "question": '
                                  b'"why", "label": 0}\n'), "expected 'cause' or 'effect'"),
    "not known": ("poems", lambda f: None,
                  "'poems' is not known; known are glue, super_glue, mmlu, hellaswag"),
    "none of a group": ("glue", lambda f: None, "cola: no file of its validation split"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_named_with_a_remedy(case, bundled, tmp_path):
    task, make, said = WRONG[case]
    make(tmp_path)
    with pytest.raises(CompressionError, match=said):
        benchmarks.run(*bundled, task, tmp_path, execute=lambda given: [])


def test_bad_arguments(bundled, folders, tmp_path):
    for settings, said in (
        ({"shots": -1}, "shots=-1"),
        ({"n": 0}, "n=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"shots": 3, "tasks": "mmlu_anatomy"}, "shots=3 needs 3 solved items; its dev file has 2"),
        ({"shots": 1}, "no file of its train split"),
        ({"tasks": []}, "is not known"),
        ({"tasks": "humaneval"}, "in a sandbox"),
        ({"tasks": "humaneval", "shots": 1, "execute": list}, "without solved items"),
        ({"data": tmp_path / "none"}, "no such folder"),
    ):
        given = {"tasks": "hellaswag", "data": folders["original"], **settings}
        with pytest.raises(CompressionError, match=said):
            benchmarks.run(*bundled, **given)


def test_rows_that_end_early_are_counted(tmp_path, bundled):
    benchmark_items.tabs(tmp_path / "QQP" / "dev.tsv", *benchmark_items.GLUE["QQP"][:2])
    with (tmp_path / "QQP" / "dev.tsv").open("a") as file:
        file.write("9\t0\t1\tIs it so?\n")
    with pytest.warns(CompressionWarning, match="1 of 6 rows end before"):
        assert benchmarks.run(*bundled, "qqp", tmp_path)["qqp"].n == 5


def test_what_the_model_cannot_read_whole_and_a_broken_model_are_told(tmp_path, bundled):
    model, tokenizer = bundled
    hellaswag(tmp_path, ctx_a="Ada sat down. " * 400)
    assert (
        "1 of 1 items cut on the left to the model's 512 tokens"
        in benchmarks.run(model, tokenizer, "hellaswag", tmp_path)["hellaswag"].protocol
    )
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(CompressionError, match="hellaswag: .* of 1 of 1 items are not numbers"):
        benchmarks.run(broken, tokenizer, "hellaswag", tmp_path)


def test_the_cache_of_the_hub_is_a_folder_too(folders, tmp_path, bundled, found):
    place = tmp_path / "datasets--Rowan--hellaswag" / "snapshots" / "0123"
    place.mkdir(parents=True)
    (place / "data").symlink_to(folders["hub"] / "hellaswag" / "data")
    assert (
        benchmarks.run(*bundled, "hellaswag", tmp_path)["hellaswag"].scores
        == found["hub"][0]["hellaswag"].scores
    )


def test_answers_are_compared_as_squad_does():
    assert [squad.compute_exact("The cup.", s) for s in ("cup", "a CUP", "cups")] == [1, 1, 0]
    assert squad.compute_f1("the red cup", "red pot") == pytest.approx(0.5) and squad.compute_f1(
        "the", "a"
    ) == 1.0 != squad.compute_f1("the", "x")
    normal = {}
    source = (benchmarks.tasks_folder() / "super_glue" / "record" / "t5_utils.py").read_text()
    exec(compile(source, "t5_utils", "exec"), normal)
    for text in ("The  Cup!", "an 'apple'", "theatre, a-b", ""):
        assert " ".join(squad.words(text)) == normal["normalize_squad"](text)
    assert Path(squad.__file__).is_file()
