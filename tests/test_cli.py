"""The command line as people use it: folders that appear whole, one line for every mistake, Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
from datetime import datetime

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sparsentropy import datasets, runs
from sparsentropy.cli import app
from sparsentropy.learning import gradient
from sparsentropy.model import Parameters
from sparsentropy.runs import FILES


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def command(*arguments):
    return [sys.executable, "-m", "sparsentropy", *(str(argument) for argument in arguments)]


def snapshot(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}, set(folder.rglob("*"))


def laplace_table(n=300, d=6, h=4):
    rng = np.random.default_rng(0)
    return rng.laplace(size=(n, h)) @ rng.normal(size=(h, d)) + 0.1 * rng.normal(size=(n, d))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Data of every kind, good and bad."""
    folder = tmp_path_factory.mktemp("data")
    table = laplace_table()
    np.save(folder / "table.npy", table)
    np.save(folder / "narrow.npy", table[:, :5])
    np.save(folder / "line.npy", table[0])
    np.savetxt(folder / "table.csv", table, delimiter=",")
    np.savez(folder / "two.npz", a=table, b=table)
    np.save(folder / "nan.npy", np.where(np.arange(6) == 3, np.nan, table))
    gaps = np.where(np.random.default_rng(1).random(table.shape) < 0.2, np.nan, table)
    np.savetxt(folder / "gaps.csv", np.where(np.isnan(gaps), "", gaps.astype(str)), "%s", delimiter=",")
    np.save(folder / "infinite.npy", np.where(np.arange(6) == 3, np.inf, table))
    (folder / "text.csv").write_text("a,b\n1,x\n2,y\n")
    (folder / "notes.txt").write_text("1 2 3\n")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "no-images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, size=(40, 48, 3), dtype=np.uint8)
    (folder / "photos").mkdir()
    Image.fromarray(pixels).save(folder / "photos" / "a.png")
    Image.fromarray(pixels[::-1, :30]).save(folder / "photos" / "b.png")
    return folder


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    """A run folder learned from the table."""
    folder = tmp_path_factory.mktemp("runs") / "table"
    result = invoke("fit", files / "table.npy", "--out", folder, "--components", 4, "--max-iter", 4, "--tol", 0)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def photo_run(files, tmp_path_factory):
    """A run folder learned from patches of photographs, whitened twice over."""
    folder = tmp_path_factory.mktemp("runs") / "photos"
    options = ["--patch-size", 4, "--patches", 400, "--whiten", "zca", "--remove-mean", "--max-iter", 3]
    result = invoke("fit", files / "photos", "--out", folder, "--components", 8, *options)
    assert result.exit_code == 0, result.output
    return folder


def test_help_needs_none_of_the_heavy_libraries():
    code = (
        "import sys; from sparsentropy.cli import app\n"
        "try: app(['fit', '--help'])\n"
        "finally: print(sorted({'torch', 'sklearn', 'scipy', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.splitlines()[-1] == "[]"


def test_the_module_runs_and_names_itself():
    answer = subprocess.run(command("--help"), capture_output=True, text=True)
    assert answer.returncode == 0
    assert "Usage: sparsentropy " in answer.stdout
    for name in ("demo", "fit", "encode", "impute", "score", "report"):
        assert name in answer.stdout


@pytest.mark.parametrize("name", ["demo", "fit", "encode", "impute", "score", "report"])
def test_every_command_teaches_by_an_example(name):
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert f"Example: sparsentropy {name} " in result.output


def test_version():
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.output.startswith("sparsentropy 0.")


def test_fit_writes_a_whole_run_folder(run):
    assert sorted(file.name for file in run.iterdir()) == sorted(FILES)
    numbers = json.loads((run / "metrics.json").read_text())
    assert numbers["n_samples"] == 270
    assert numbers["held_out_bound"] is not None
    assert numbers["settings"]["n_components"] == 4
    assert "callback" not in numbers["settings"]
    assert "4 atoms learned from 270 data points with 6 features" in (run / "report.html").read_text()


def test_fit_finds_a_number_of_atoms_that_suits_the_data(files, tmp_path):
    result = invoke("fit", files / "table.csv", "-o", tmp_path / "run", "--max-iter", 2)
    assert result.exit_code == 0, result.output
    assert "270 data points with 6 features;" in result.stderr
    assert "4 atoms learned" in result.stderr  # of which the table was made
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["settings"]["n_components"] == 4


def test_fit_says_where_the_report_is_and_what_was_found(files, tmp_path):
    result = invoke("fit", files / "table.csv", "-o", tmp_path / "run", "--components", 2, "--max-iter", 2)
    assert result.stdout.strip() == str(tmp_path / "run" / "report.html")
    assert "sweep 1/2  bound " in result.stderr
    assert "2 atoms learned from 270 data points" in result.stderr
    assert re.search(r"2 atoms; about \d+ MiB of memory needed, [\d.]+ [GM]iB free", result.stderr)


def test_fit_refuses_what_memory_does_not_hold(files, tmp_path, monkeypatch):
    monkeypatch.setattr("sparsentropy.memory.available", lambda _: 2**20)
    result = invoke("fit", files / "table.csv", "-o", tmp_path / "run", "--components", 2)
    assert result.exit_code == 2
    assert "1 MiB are free" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--posterior", "full", "--annealing", "beta"],
        ["--posterior", "low-rank", "--rank", 2],
        ["--inference", "amortized", "--encoder", "unrolled", "--refine", 2],
        ["--inference", "amortized", "--encoder", "mlp", "--posterior", "low-rank", "--rank", 2],
        ["--whiten", "zca", "--remove-mean", "--held-out", 0],
        ["--learning", "minibatch", "--batch-size", 64],
        ["--dtype", "float64", "--device", "cpu", "--batch-size", 50, "--n-init", 2],
    ],
)
def test_fit_takes_every_option(files, tmp_path, options, monkeypatch):
    monkeypatch.setattr(gradient, "WARM_UP", 20)
    monkeypatch.setattr(gradient, "STEPS", 5)
    result = invoke("fit", files / "table.npy", "-o", tmp_path / "run", "--components", 2, "--max-iter", 2, *options)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "report.html").exists()


def test_the_same_seed_gives_the_same_codes(files, run, tmp_path):
    again = tmp_path / "again"
    invoke("fit", files / "table.npy", "--out", again, "--components", 4, "--max-iter", 4, "--tol", 0)
    for name, folder in (("a.npy", run), ("b.npy", again)):
        assert invoke("encode", folder, files / "table.npy", "-o", tmp_path / name).exit_code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


def test_a_run_may_be_written_over_and_beside_other_files_only_by_force(files, run, tmp_path):
    options = ["--components", 2, "--max-iter", 1]
    first = invoke("fit", files / "table.npy", "--out", tmp_path, *options)
    assert first.exit_code == 0
    assert "replacing" not in first.stderr
    at = datetime(2026, 1, 2, 3, 4, 5)
    for file in tmp_path.iterdir():
        os.utime(file, (at.timestamp(), at.timestamp()))
    again = invoke("fit", files / "table.npy", "--out", tmp_path, *options)
    assert f"replacing the run of 2026-01-02 03:04:05 in {tmp_path}\n" in again.stderr
    (tmp_path / "thesis.tex").write_text("precious")
    refused = invoke("fit", files / "table.npy", "--out", tmp_path, *options)
    assert refused.exit_code == 2
    assert "thesis.tex" in refused.stderr
    assert invoke("fit", files / "table.npy", "--out", tmp_path, "--force", *options).exit_code == 0
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_folder_that_takes_no_files_is_refused_before_learning(files, monkeypatch):
    monkeypatch.setattr("sparsentropy.fit_command.learn_and_report", None)
    result = invoke("fit", files / "table.npy", "--out", "/proc/foo")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: /proc/foo cannot be written to (")
    assert result.stderr.endswith("; give another folder\n")


def test_no_command_is_answered_by_help_alone():
    result = invoke()
    assert result.exit_code == 2
    assert "Usage: " in result.output
    assert "error:" not in result.output


WRONG_PATHS = [
    "fit nowhere.csv --out new",
    "fit . --out /proc/foo",
    "fit . --out new --checkpoint notes.txt",
    "fit . --out new --device toaster",
    "fit . --out new --every soon",
    "encode nowhere . -o z.npy",
    "encode . . -o z.npy",
    "encode . . -o nowhere/z.npy",
    "encode . . -o folder.npy",
    "impute nowhere . -o z.csv",
    "score nowhere .",
    "denoise nowhere.png -o z.png",
    "inpaint nowhere.png -o z.png",
    "inpaint notes.txt -o z.png --model nowhere",
]


def test_wrong_paths_are_told_without_the_heavy_libraries(tmp_path):
    code = (
        "import sys; from typer.testing import CliRunner; from sparsentropy.cli import app\n"
        "for line in sys.argv[1:]:\n"
        "    print(CliRunner().invoke(app, line.split()).output, end='')\n"
        "print(sorted({'torch', 'sklearn', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder.npy").mkdir()
    answer = subprocess.run([sys.executable, "-c", code, *WRONG_PATHS], capture_output=True, text=True, cwd=tmp_path)
    *lines, loaded = answer.stdout.splitlines()
    assert loaded == "[]"
    assert len(lines) == len(WRONG_PATHS)
    for typed, line in zip(WRONG_PATHS, lines, strict=True):
        assert line.startswith("error: "), typed
        assert re.search("nowhere|/proc/foo|notes.txt|toaster|soon|holds no model|is a folder", line), typed
    assert sorted(os.listdir(tmp_path)) == ["folder.npy", "notes.txt"]


BYTES = b"lat\xf6n".decode(errors="surrogateescape")  # not UTF-8


def test_names_of_files_may_be_in_any_encoding(files, noisy, tmp_path):
    table, run, codes = (tmp_path / f"{BYTES}{ending}" for ending in (".csv", "", ".npz"))
    table.write_bytes((files / "table.csv").read_bytes())
    fitted = invoke("fit", table, "--out", run, "--components", 2, "--max-iter", 2)
    assert fitted.exit_code == 0, fitted.stderr
    assert fitted.stdout_bytes == os.fsencode(run / "report.html") + b"\n"
    assert json.loads((run / "metrics.json").read_bytes())["title"] == "lat\ufffdn.csv"
    assert "<h1>lat\ufffdn.csv</h1>" in (run / "report.html").read_text(encoding="utf-8")
    assert invoke("report", run).exit_code == 0
    assert invoke("encode", run, table, "-o", codes).exit_code == 0
    assert invoke("score", run, table).exit_code == 0
    (tmp_path / f"{BYTES}.png").write_bytes((noisy / "grey.png").read_bytes())
    clean, page = tmp_path / f"clean{BYTES}.png", tmp_path / f"{BYTES}.html"
    result = invoke("denoise", tmp_path / f"{BYTES}.png", "-o", clean, "--sigma", 20, "--report", page)
    assert result.exit_code == 0, result.output
    assert "lat?n.png" in page.read_text(encoding="utf-8")


def test_codes_are_written_in_three_formats(files, run, tmp_path):
    for name in ("z.npy", "z.npz", "z.csv"):
        assert invoke("encode", run, files / "table.npy", "-o", tmp_path / name).exit_code == 0
    codes = np.load(tmp_path / "z.npy")
    assert codes.shape == (300, 4)
    np.testing.assert_array_equal(np.load(tmp_path / "z.npz")["mean"], codes)
    assert (tmp_path / "z.csv").read_text().splitlines()[0] == "mean_1,mean_2,mean_3,mean_4"
    np.testing.assert_allclose(np.loadtxt(tmp_path / "z.csv", delimiter=",", skiprows=1), codes, rtol=1e-6)


def test_standard_deviations_stand_beside_the_codes(files, run, tmp_path):
    for name in ("z.npz", "z.csv"):
        assert invoke("encode", run, files / "table.npy", "-o", tmp_path / name, "--std").exit_code == 0
    with np.load(tmp_path / "z.npz") as archive:
        assert archive["std"].shape == archive["mean"].shape
        assert (archive["std"] > 0).all()
    assert (tmp_path / "z.csv").read_text().splitlines()[0].endswith("std_3,std_4")


def test_the_score_is_the_mean_over_rows(files, run, tmp_path):
    mean = float(invoke("score", run, files / "table.npy").stdout.split()[0])
    rows = invoke("score", run, files / "table.npy", "--per-row").stdout.split()
    assert len(rows) == 300
    assert np.mean([float(row) for row in rows]) == pytest.approx(mean, rel=1e-4)
    assert invoke("score", run, files / "table.npy", "--per-row", "-o", tmp_path / "s.npy").exit_code == 0
    np.testing.assert_allclose(np.load(tmp_path / "s.npy")[:, 0], np.array(rows, float), rtol=1e-5)


def test_a_model_file_may_be_named_instead_of_its_folder(files, run):
    folder = invoke("score", run, files / "table.npy")
    assert invoke("score", run / "model.safetensors", files / "table.npy").stdout == folder.stdout


def test_a_model_with_an_encoder_answers_by_it(files, tmp_path):
    folder, table = tmp_path / "run", files / "table.npy"
    options = ["--components", 4, "--max-iter", 3, "--inference", "amortized"]
    assert invoke("fit", table, "--out", folder, *options).exit_code == 0
    settings = json.loads((folder / "metrics.json").read_text())["settings"]
    assert (settings["inference"], settings["encoder"], settings["refine"]) == ("amortized", "unrolled", 0)
    model, _ = runs.read(folder)
    rows, unit = np.load(table), model.data_scale_
    learned = Parameters(
        torch.from_numpy(model.components_.T),
        torch.from_numpy(model.prior_scale_ / unit),
        torch.tensor(model.noise_variance_ / unit**2),
    )
    with torch.no_grad():
        answer = unit * model.encoder_(torch.from_numpy(rows / unit), learned).mean.numpy()
    assert invoke("encode", folder, table, "-o", tmp_path / "z.npy").exit_code == 0
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), answer, rtol=1e-6, atol=1e-7)
    score = float(invoke("score", folder, table).stdout.split()[0])
    assert score == pytest.approx(model.score(rows), abs=1e-4)
    model.set_params(inference="iterative")
    assert np.abs(model.transform(rows) - answer).max() > 1e-3
    assert model.score(rows) > score


def test_photographs_are_prepared_for_encoding_as_they_were_for_learning(files, photo_run, tmp_path):
    assert "8 atoms learned from 360 patches of 4 × 4 pixels" in (photo_run / "report.html").read_text()
    assert invoke("encode", photo_run, files / "photos", "-o", tmp_path / "z.npy").exit_code == 0
    assert np.load(tmp_path / "z.npy").shape == (10 * 12 + 10 * 7, 8)


def test_colour_is_kept_if_wished(files, tmp_path):
    options = ["--colour", "--patch-size", 4, "--patches", 100, "--components", 3, "--max-iter", 1]
    result = invoke("fit", files / "photos", "--out", tmp_path / "run", *options)
    assert result.exit_code == 0, result.output
    settings = json.loads((tmp_path / "run" / "metrics.json").read_text())["settings"]
    assert settings["colour"] is True
    assert settings["whiten"] == "none"


def test_the_report_is_made_again_from_the_folder(run, tmp_path):
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    result = invoke("report", run)
    assert result.exit_code == 0, result.output
    after = (run / "report.html").read_text()
    assert len(after) == pytest.approx(len(before), rel=0.01)
    assert after[after.index("<h1>") : after.index("<svg")] == before[before.index("<h1>") : before.index("<svg")]


def test_demo(tmp_path):
    result = invoke("demo", "--out", tmp_path / "demo", "--components", 6, "--patches", 300)
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in (tmp_path / "demo").iterdir()) == sorted(FILES)


# Every case: what is typed, with {files}, {run} and {new} filled in, and a word of the answer.
BAD = {
    "no command": ("frobnicate", "frobnicate"),
    "no data": ("fit --out {new}", "DATA"),
    "no folder": ("fit {files}/table.npy", "--out"),
    "unknown option": ("fit {files}/table.npy --out {new} --sparsity 3", "--sparsity"),
    "unknown posterior": ("fit {files}/table.npy --out {new} --posterior banana", "low-rank"),
    "unknown inference": ("fit {files}/table.npy --out {new} --inference banana", "amortized"),
    "unknown encoder": ("fit {files}/table.npy --out {new} --encoder banana", "residual"),
    "too little refinement": ("fit {files}/table.npy --out {new} --refine -1", "--refine"),
    "no encoder for it": ("fit {files}/table.npy --out {new} --inference amortized --posterior full", "low-rank"),
    "no atoms": ("fit {files}/table.npy --out {new} --components 0", "--components"),
    "words for a number": ("fit {files}/table.npy --out {new} --components many", "--components"),
    "all held out": ("fit {files}/table.npy --out {new} --held-out 1", "--held-out"),
    "unknown device": ("fit {files}/table.npy --out {new} --device toaster", "device"),
    "missing data": ("fit {files}/nothing.npy --out {new}", "does not exist"),
    "not a table": ("fit {files}/line.npy --out {new}", "shape"),
    "an empty column": ("fit {files}/nan.npy --out {new}", "column 3"),
    "infinite values": ("fit {files}/infinite.npy --out {new}", "infinity"),
    "gaps to be centred": ("fit {files}/gaps.csv --out {new} --remove-mean", "NaN"),
    "gaps to be whitened": ("fit {files}/gaps.csv --out {new} --whiten zca", "NaN"),
    "filled into an image": ("impute {run} {files}/gaps.csv -o {files}/z.png", ".npy"),
    "words in a table": ("fit {files}/text.csv --out {new}", "not numeric"),
    "unknown kind of file": ("fit {files}/notes.txt --out {new}", ".txt"),
    "damaged image": ("fit {files}/broken.png --out {new}", "broken.png"),
    "no images": ("fit {files}/no-images --out {new}", "no image files"),
    "several arrays": ("fit {files}/two.npz --out {new}", "'a', 'b'"),
    "wrong key": ("fit {files}/two.npz --out {new} --key c", "'c'"),
    "filter for a table": ("fit {files}/table.npy --out {new} --whiten olshausen", "--whiten zca"),
    "filter in colour": ("fit {files}/photos --out {new} --colour --whiten olshausen", "grey"),
    "rows are no patches": ("fit {files}/table.npy --out {new} --patch-size 3", "patch"),
    "large patches": ("fit {files}/photos --out {new} --patch-size 50", "smaller than a patch"),
    "folder is a file": ("fit {files}/table.npy --out {files}/notes.txt", "is a file"),
    "folder under a file": ("fit {files}/table.npy --out {files}/notes.txt/run", "is a file"),
    "folder with other files": ("fit {files}/table.npy --out {files}", "--force"),
    "demo into other files": ("demo --out {files}", "--force"),
    "missing model": ("encode {new} {files}/table.npy -o {files}/z.npy", "does not exist"),
    "folder without model": ("encode {files} {files}/table.npy -o {files}/z.npy", "model.safetensors"),
    "data as a model": ("encode {files}/table.npy {files}/table.npy -o {files}/z.npy", "table.npy"),
    "data of other width": ("encode {run} {files}/narrow.npy -o {files}/z.npy", "5 features"),
    "photographs for a table": ("encode {run} {files}/photos -o {files}/z.npy", "table"),
    "unknown output": ("encode {run} {files}/table.npy -o {files}/z.txt", ".npz"),
    "output nowhere": ("encode {run} {files}/table.npy -o {new}/z.npy", "does not exist"),
    "no place for deviations": ("encode {run} {files}/table.npy -o {files}/z.npy --std", ".npz"),
    "rows without asking": ("score {run} {files}/table.npy -o {files}/s.npy", "--per-row"),
    "score of missing data": ("score {run} {files}/nothing.npy", "does not exist"),
    "report of nothing": ("report {new}", "does not exist"),
    "report of other files": ("report {files}", "run.safetensors"),
}


@pytest.mark.parametrize(("typed", "word"), BAD.values(), ids=BAD.keys())
def test_a_mistake_is_one_line_and_leaves_everything_as_it_was(typed, word, files, run, tmp_path):
    before = snapshot(files), snapshot(run)
    names = {"files": str(files), "run": str(run), "new": str(tmp_path / "new")}
    result = invoke(*(part.format(**names) for part in typed.split()))
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("270 data points")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert word in lines[0]
    assert (snapshot(files), snapshot(run)) == before
    assert not (tmp_path / "new").exists()


def test_a_table_with_gaps_is_learned_from_and_filled_in(files, tmp_path):
    folder = tmp_path / "run"
    found = invoke("fit", files / "gaps.csv", "--out", folder, "--components", 4, "--posterior", "full", "--tol", 0.01)
    assert found.exit_code == 0
    assert "nan" not in (folder / "metrics.json").read_text().lower()
    assert (folder / "report.html").exists()
    answer = invoke("impute", folder, files / "gaps.csv", "-o", tmp_path / "filled.npz", "--std")
    assert answer.exit_code == 0
    written = np.load(tmp_path / "filled.npz")
    table, gaps = np.load(files / "table.npy"), datasets.load_array(files / "gaps.csv")
    missing = np.isnan(gaps)
    assert f"{missing.sum():,} missing values of {len(table):,} data points" in answer.stderr
    np.testing.assert_allclose(written["data"][~missing], table[~missing], rtol=1e-6)
    assert (written["std"] > 0).tolist() == missing.tolist()
    assert np.square(written["data"] - table)[missing].mean() < 0.5 * np.square(table).mean()
    assert invoke("impute", folder, files / "gaps.csv", "-o", tmp_path / "filled.csv").exit_code == 0
    again = datasets.load_array(tmp_path / "filled.csv")
    np.testing.assert_allclose(again, written["data"], rtol=1e-6, atol=1e-8)


def test_a_mistake_in_a_real_process_shows_no_traceback(files, tmp_path):
    answer = subprocess.run(
        command("fit", files / "infinite.npy", "--out", tmp_path / "new"), capture_output=True, text=True
    )
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith("error: ")
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["run.safetensors", "model.safetensors", "preparation.safetensors"])
def test_a_damaged_run_is_named_in_one_line(files, run, tmp_path, name):
    copy = tmp_path / "run"
    copy.mkdir()
    for file in run.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    whole = (run / name).read_bytes()
    (copy / name).write_bytes(whole[: len(whole) // 2])
    result = invoke("report", copy) if name.startswith("run") else invoke("score", copy, files / "table.npy")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert name in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_failure_while_writing_leaves_the_earlier_run_readable(files, tmp_path, monkeypatch):
    arguments = ["fit", files / "table.npy", "--out", tmp_path / "run", "--components", 2, "--max-iter", 1]
    assert invoke(*arguments).exit_code == 0
    before = snapshot(tmp_path)[1]

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "No space left" in result.stderr
    assert snapshot(tmp_path)[1] == before


def interrupted_fit(files, folder):
    """Run a fit that would take for ever, and interrupt it after its first sweep."""
    endless = ["--components", 4, "--max-iter", 1_000_000, "--tol", 0]
    process = subprocess.Popen(
        command("fit", files / "table.npy", "--out", folder, *endless),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if line.startswith("sweep"):
            break
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=60)
    return process.returncode, out, seen + rest


def test_ctrl_c_keeps_the_best_state_and_says_so(files, tmp_path):
    code, out, err = interrupted_fit(files, tmp_path / "run")
    assert code == 130, err
    assert "Traceback" not in err
    assert "interrupted; saving the best state so far\n" in err
    assert out.strip() == str(tmp_path / "run" / "report.html")
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == sorted(FILES)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["interrupted"] is True
    assert "was interrupted" in (tmp_path / "run" / "report.html").read_text()
    assert invoke("score", tmp_path / "run", files / "table.npy").exit_code == 0


def interrupt(*arguments, **options):
    raise KeyboardInterrupt


def test_ctrl_c_before_learning_writes_nothing(files, tmp_path, monkeypatch):
    from sparsentropy.preparation import Preparation

    monkeypatch.setattr(Preparation, "read", interrupt)
    result = invoke("fit", files / "table.npy", "--out", tmp_path / "run")
    assert result.exit_code == 130
    assert result.stderr == "interrupted; nothing was written\n"
    assert not (tmp_path / "run").exists()


def test_ctrl_c_after_learning_leaves_the_earlier_run_and_says_so(files, tmp_path, monkeypatch):
    from sparsentropy import report

    arguments = ["fit", files / "table.npy", "--out", tmp_path / "run", "--components", 2, "--max-iter", 1]
    assert invoke(*arguments).exit_code == 0
    before = snapshot(tmp_path)
    monkeypatch.setattr(report, "render", interrupt)
    result = invoke(*arguments, "--seed", 1)
    assert result.exit_code == 130
    assert result.stderr.endswith(f"interrupted; the earlier run in {tmp_path / 'run'} is as it was\n")
    assert result.stdout == ""
    assert snapshot(tmp_path) == before


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A folder with two images that are noisy, one in colour, and a file that is no image."""
    folder = tmp_path_factory.mktemp("noisy")
    random = np.random.default_rng(0)
    for name, shape in (("grey.png", (48, 56)), ("colour.png", (40, 40, 3))):
        smooth = np.broadcast_to(np.linspace(60, 180, 56)[: shape[1]].reshape(1, -1, *(1,) * (len(shape) - 2)), shape)
        Image.fromarray(np.rint(smooth + 20 * random.normal(size=shape)).clip(0, 255).astype(np.uint8)).save(
            folder / name
        )
    return folder


def test_denoise_writes_an_image_of_the_same_kind_and_a_page(noisy, tmp_path):
    result = invoke("denoise", noisy / "grey.png", "-o", tmp_path / "clean.png", "--report", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    before, after = (np.asarray(Image.open(path)) for path in (noisy / "grey.png", tmp_path / "clean.png"))
    assert (after.dtype, after.shape) == (before.dtype, before.shape)
    assert np.diff(after.astype(float), axis=0).std() < 0.5 * np.diff(before.astype(float), axis=0).std()
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 6
    assert "grey.png" in page
    assert str(tmp_path / "page.html") in result.stdout
    assert "noise of" in result.stderr


def test_denoise_goes_on_after_a_bad_file(noisy, tmp_path):
    (tmp_path / "in").mkdir()
    for file in noisy.iterdir():
        (tmp_path / "in" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "in" / "a.png").write_bytes(b"none")
    result = invoke("denoise", tmp_path / "in", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["colour.png", "grey.png"]
    assert "a.png cannot be read as an image" in result.stderr
    assert "1 of 3 images failed" in result.stderr


def test_denoise_with_a_model_of_patches(noisy, tmp_path):
    size = ("--patch-size", 6, "--patches", 600, "--components", 20)
    fitted = invoke("fit", noisy / "grey.png", "--out", tmp_path / "run", *size, "--whiten", "none", "--remove-mean")
    assert fitted.exit_code == 0, fitted.output
    result = invoke("denoise", noisy / "grey.png", "-o", tmp_path / "clean.png", "--model", tmp_path / "run")
    assert result.exit_code == 0, result.output
    whitened = invoke("fit", noisy / "grey.png", "--out", tmp_path / "other", *size)
    assert whitened.exit_code == 0, whitened.output
    result = invoke("denoise", noisy / "grey.png", "-o", tmp_path / "clean.png", "--model", tmp_path / "other")
    assert result.exit_code == 2
    assert "learn with --whiten none --remove-mean" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["grey.png", "-o", "clean.txt"], "cannot hold uint8 pixels"),
        (["grey.png", "-o", "grey.png"], "give another name for the result"),
        (["nothing.png", "-o", "clean.png"], "does not exist"),
        (["grey.png", "-o", "clean.png", "--sigma", "-1"], "--sigma"),
        (["grey.png", "-o", "clean.png", "--report", "page.txt"], "must end in one of .html"),
    ],
)
def test_denoise_says_what_is_wrong(noisy, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(noisy)
    before = snapshot(noisy)
    result = invoke("denoise", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert snapshot(noisy) == before


@pytest.fixture(scope="module")
def torn(tmp_path_factory):
    """Two images whose gaps are white in masks of their own, and one whose gaps are transparent."""
    folder = tmp_path_factory.mktemp("torn")
    (folder / "in").mkdir()
    (folder / "masks").mkdir()
    gaps = np.random.default_rng(0).random((40, 48)) < 0.3
    smooth = np.add.outer(2 * np.arange(40), 3 * np.arange(48)).astype(np.uint8)
    for name in ("one.png", "two.png"):
        Image.fromarray(np.where(gaps, 0, smooth).astype(np.uint8)).save(folder / "in" / name)
        Image.fromarray((255 * gaps).astype(np.uint8)).save(folder / "masks" / name)
    Image.fromarray(np.dstack([np.where(gaps, 0, smooth), np.where(gaps, 0, 255)]).astype(np.uint8)).save(
        folder / "clear.png"
    )
    return folder, gaps, smooth


def assert_filled(path, torn):
    _, gaps, smooth = torn
    found = np.asarray(Image.open(path))
    assert (found.dtype, found.shape) == (smooth.dtype, smooth.shape)
    np.testing.assert_array_equal(found[~gaps], smooth[~gaps])
    assert np.abs(found.astype(float) - smooth)[gaps].max() < 6


def test_inpaint_fills_what_is_white_in_the_mask_and_writes_a_page(torn, tmp_path):
    source, mask = torn[0] / "in" / "one.png", torn[0] / "masks" / "one.png"
    result = invoke("inpaint", source, "--mask", mask, "-o", tmp_path / "w.png", "--report", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert_filled(tmp_path / "w.png", torn)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 5
    assert "missing pixels" in page
    assert f"{torn[1].sum():,} missing pixels ({torn[1].mean():.1%}) filled in" in result.stderr


def test_inpaint_takes_a_folder_of_masks(torn, tmp_path):
    result = invoke("inpaint", torn[0] / "in", "--mask", torn[0] / "masks", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for name in ("one.png", "two.png"):
        assert_filled(tmp_path / "out" / name, torn)


def test_inpaint_fills_what_is_transparent(torn, tmp_path):
    result = invoke("inpaint", torn[0] / "clear.png", "-o", tmp_path / "whole.png")
    assert result.exit_code == 0, result.output
    assert_filled(tmp_path / "whole.png", torn)


def test_inpaint_leaves_alone_what_is_half_transparent(torn, tmp_path):
    pixels = np.asarray(Image.open(torn[0] / "clear.png")).copy()
    pixels[:3, :, 1] = np.where(torn[1][:3], 0, 128)
    Image.fromarray(pixels).save(tmp_path / "veiled.png")
    result = invoke("inpaint", tmp_path / "veiled.png", "-o", tmp_path / "whole.png")
    assert result.exit_code == 0, result.output
    found = np.asarray(Image.open(tmp_path / "whole.png"))
    np.testing.assert_array_equal(found[:, :, 1], np.where(torn[1], 255, pixels[:, :, 1]))


def test_inpaint_finds_out_the_noise_of_known_pixels(torn, tmp_path):
    random = np.random.default_rng(0)
    grey = np.clip(128 + random.normal(scale=20, size=(60, 60)), 0, 255).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "noisy.png")
    Image.fromarray(np.where(random.random(grey.shape) < 0.3, 255, 0).astype(np.uint8)).save(tmp_path / "mask.png")
    mask = ["--mask", tmp_path / "mask.png", "-o", tmp_path / "whole.png"]
    result = invoke("inpaint", tmp_path / "noisy.png", *mask, "--noisy")
    assert result.exit_code == 0, result.output
    said = float(re.search(r"noise of (\S+) removed", re.sub(r"\s+", " ", result.output)).group(1))
    assert said == pytest.approx(20, rel=0.05)
    assert np.asarray(Image.open(tmp_path / "whole.png")).std() < 5
    result = invoke("inpaint", tmp_path / "noisy.png", *mask, "--noisy", "--sigma", 20)
    assert result.exit_code == 2
    assert "give one of them" in result.stderr


def test_inpaint_goes_on_after_an_image_without_a_mask(torn, tmp_path):
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "two.png").write_bytes((torn[0] / "masks" / "two.png").read_bytes())
    result = invoke("inpaint", torn[0] / "in", "--mask", tmp_path / "masks", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "1 of 2 images failed" in result.stderr
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["two.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in/one.png", "-o", "whole.png"], "no transparent pixels, which would be the missing ones; give --mask"),
        (["in/one.png", "-o", "whole.png", "--mask", "nothing.png"], "nothing.png does not exist"),
        (["in/one.png", "-o", "whole.png", "--mask", "small.png"], "has 9 × 8 pixels, the image 48 × 40"),
        (["in/one.png", "-o", "whole.png", "--mask", "white.png"], "every pixel is missing"),
        (["in/one.png", "-o", "whole.png", "--mask", "masks/one.png", "--sigma", "-1"], "--sigma"),
    ],
)
def test_inpaint_says_what_is_wrong(torn, monkeypatch, arguments, message):
    monkeypatch.chdir(torn[0])
    Image.fromarray(np.zeros((8, 9), np.uint8)).save("small.png")
    Image.fromarray(np.full((40, 48), 255, np.uint8)).save("white.png")
    before = snapshot(torn[0])
    result = invoke("inpaint", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert snapshot(torn[0]) == before


def test_a_run_in_an_extreme_unit_is_shown_again_as_it_was(tmp_path):
    np.save(tmp_path / "table.npy", 1e40 * laplace_table(n=60))
    options = ["--components", 3, "--max-iter", 3]
    learned = invoke("fit", tmp_path / "table.npy", "--out", tmp_path / "run", *options)
    assert learned.exit_code == 0
    page, numbers = ((tmp_path / "run" / name).read_bytes() for name in ("report.html", "metrics.json"))
    again = invoke("report", tmp_path / "run")
    assert again.exit_code == 0
    assert again.stderr == ""
    assert (tmp_path / "run" / "report.html").read_bytes() == page
    assert (tmp_path / "run" / "metrics.json").read_bytes() == numbers


@pytest.mark.parametrize("unit", [1e-300, 1e-160, 1e160, 1e300])
@pytest.mark.parametrize("whiten", ["none", "zca"])
def test_data_in_a_unit_that_nothing_is_learned_from_are_refused_in_one_line(unit, whiten, tmp_path):
    np.save(tmp_path / "table.npy", unit * laplace_table(n=60))
    result = invoke("fit", tmp_path / "table.npy", "--out", tmp_path / "run", "--whiten", whiten, "--components", 3)
    assert result.exit_code == 2
    said = result.output.splitlines()[-1]
    assert re.fullmatch(
        r"error: X has values (up to|of about) [\d.]+e[+-]\d+, and .* between 1e-145 and 1e\+145.*", said
    )
    assert "Warning" not in result.output
    assert not (tmp_path / "run").exists()
