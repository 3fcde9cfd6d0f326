"""Tables through the commands: names decide which column is which, nothing that was read is written over or changed."""

import os

import numpy as np
import pandas as pd
import pytest

from sparsentropy import SparseCoding, datasets, fit_command
from test_cli import invoke, snapshot

DRAW = np.random.default_rng(0)
X = (DRAW.laplace(size=(80, 2)) @ DRAW.normal(size=(2, 4)) + 0.1 * DRAW.normal(size=(80, 4))).round(4)
GAPS = np.where(DRAW.random(X.shape) < 0.15, np.nan, X)
TABLE, HOLES = (pd.DataFrame(values, columns=list("abcd")) for values in (X, GAPS))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    TABLE.to_csv(folder / "table.csv", index=False)
    TABLE.to_parquet(folder / "table.parquet")
    HOLES.to_parquet(folder / "gaps.parquet")
    np.save(folder / "table.npy", X)
    np.save(folder / "gaps.npy", GAPS)
    return folder


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    result = invoke("fit", files / "table.csv", "-o", folder, "--components", 2, "--max-iter", 3)
    assert result.exit_code == 0, result.output
    return folder


def done(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(words, *arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr


# --- Names


def test_the_model_and_the_report_have_the_names_of_the_columns(run):
    assert list(SparseCoding.load(run / "model.safetensors").feature_names_in_) == list("abcd")
    page = (run / "report.html").read_text()
    assert all(f">{name}</text>" in page for name in "abcd")
    done("report", run)
    assert ">d</text>" in (run / "report.html").read_text()


@pytest.mark.parametrize("kind", ["csv", "parquet", "folder"])
def test_columns_in_another_order_are_put_in_that_of_the_model(kind, files, run, tmp_path):
    path = tmp_path / f"other.{kind}"
    other = TABLE[list("dbca")]
    if kind == "folder":
        path.mkdir()
        other[:50].to_parquet(path / "1.parquet")
        other[50:].to_parquet(path / "2.parquet")
    else:
        other.to_csv(path, index=False) if kind == "csv" else other.to_parquet(path)
    expected, found = done("score", run, files / "table.csv"), done("score", run, path)
    assert found.stdout == expected.stdout
    assert expected.stderr == ""
    assert found.stderr == f"note: the columns of {path} are put in the order of the model, a, b, c, d\n"
    done("encode", run, path, "-o", tmp_path / "z.npy")
    done("encode", run, files / "table.npy", "-o", tmp_path / "expected.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), np.load(tmp_path / "expected.npy"))


def test_names_are_kept_where_rows_are_whitened_and_of_all_processes_parts(files, tmp_path):
    options = ["--components", 2, "--max-iter", 2, "--whiten", "zca", "--remove-mean", "--held-out", 0]
    done("fit", files / "table.parquet", "-o", tmp_path / "run", *options)
    TABLE[list("cdab")].to_csv(tmp_path / "other.csv", index=False)
    scores = [done("score", tmp_path / "run", path).stdout for path in (tmp_path / "other.csv", files / "table.csv")]
    assert scores[0] == scores[1]


def test_columns_without_names_are_taken_as_they_stand(files, run, tmp_path):
    named, bare = done("score", run, files / "table.csv"), done("score", run, files / "table.npy")
    assert bare.stdout == named.stdout
    assert "have no names; they are taken in the order of the model, a, b, c, d" in bare.stderr
    TABLE.to_csv(tmp_path / "bare.csv", index=False, header=False)
    assert done("score", run, tmp_path / "bare.csv").stdout == named.stdout
    done("fit", files / "table.npy", "-o", tmp_path / "run", "--components", 2, "--max-iter", 3)
    of_array = done("score", tmp_path / "run", files / "table.csv")
    assert (of_array.stdout, of_array.stderr) == (named.stdout, "")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (TABLE.rename(columns={"b": "z"}), "lacks the columns b and has other columns: z; the model was learned from"),
        (TABLE[list("abc")], "lacks the columns d; the model was learned from a, b, c, d"),
        (TABLE.assign(e=1.5), "has other columns: e; the model was learned from a, b, c, d: give these"),
    ],
)
@pytest.mark.parametrize("command", ["score", "encode", "impute"])
def test_other_columns_are_refused_by_name(command, other, words, run, tmp_path):
    other.to_csv(tmp_path / "other.csv", index=False)
    output = [] if command == "score" else ["-o", tmp_path / "z.csv"]
    refused(words, command, run, tmp_path / "other.csv", *output)
    assert not (tmp_path / "z.csv").exists()


# --- Nothing is written over


@pytest.mark.parametrize("command", ["encode", "impute", "score"])
@pytest.mark.parametrize("way", ["same", "link", "hard link", "other spelling", "model"])
def test_what_is_read_is_not_written_over(command, way, files, run, tmp_path, monkeypatch):
    own, model = tmp_path / "own.npy", run
    own.write_bytes((files / "table.npy").read_bytes())
    output = own
    if way == "link":
        output = tmp_path / "link.npy"
        output.symlink_to(own)
    elif way == "hard link":
        output = tmp_path / "hard.npy"
        os.link(own, output)
    elif way == "other spelling":
        monkeypatch.chdir(tmp_path)
        output = "../" + tmp_path.name + "/own.npy"
    elif way == "model":
        model = output = tmp_path / "model.npy"
        output.write_bytes((run / "model.safetensors").read_bytes())
    before = snapshot(tmp_path)
    options = ["--per-row"] if command == "score" else []
    refused("is one of the files to read", command, model, own, "-o", output, *options)
    assert snapshot(tmp_path) == before


def test_a_file_of_a_folder_that_is_read_is_not_written_over(run, tmp_path):
    (tmp_path / "day=1").mkdir()
    TABLE.to_parquet(tmp_path / "day=1" / "x.parquet")
    np.save(tmp_path / "day=1" / "notes.npy", X)
    refused("is one of the files to read", "encode", run, tmp_path, "-o", tmp_path / "day=1" / "notes.npy")
    done("encode", run, tmp_path, "-o", tmp_path / "codes.npy")


# --- What was there stays


def test_what_was_there_keeps_its_text(run, tmp_path):
    rows = "".join(f"{j};1{j}234567890123;{x:.17g} ;+{abs(y)};row, {j}\n" for j, (x, y) in enumerate(X[:, :2]))
    text = f"c;a;b;d;who\n# in cm\n{rows}"
    text = text.replace("\n7;", "\nNA;").replace(".", ",")
    (tmp_path / "x.csv").write_text(text)
    found = done("impute", run, tmp_path / "x.csv", "-o", tmp_path / "y.csv")
    assert "1 missing values of 80 data points filled in" in found.stderr
    before, after = text.splitlines(), (tmp_path / "y.csv").read_text().splitlines()
    assert [i for i, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]] == [9]
    cell, rest = after[9].split(";", 1)
    assert rest == before[9].split(";", 1)[1]
    assert "," in cell
    done("impute", run, tmp_path / "x.csv", "-o", tmp_path / "z.csv", "--std")
    lines = (tmp_path / "z.csv").read_text().splitlines()
    assert lines[0] == "c;a;b;d;who;std_c;std_a;std_b;std_d"
    assert lines[2] == before[2] + ";0,0" * 4
    assert float(lines[9].split(";")[5].replace(",", ".")) > 0


def test_what_is_filled_in_is_what_python_gives_to_the_last_digit(run, tmp_path):
    HOLES[list("bdac")].to_csv(tmp_path / "x.csv", index=False)
    found = done("impute", run, tmp_path / "x.csv", "-o", tmp_path / "y.csv", "--std")
    assert f"{np.isnan(GAPS).sum()} missing values of 80 data points" in found.stderr
    filled, std = SparseCoding.load(run / "model.safetensors").impute(HOLES, return_std=True)
    both = pd.concat([filled[list("bdac")], std[list("bdac")].add_prefix("std_")], axis=1)
    np.testing.assert_array_equal(datasets.load_array(tmp_path / "y.csv", columns=list(both)), both)
    assert (tmp_path / "y.csv").read_text().startswith("b,d,a,c,std_b,std_d,std_a,std_c\n")
    done("impute", run, tmp_path / "x.csv", "-o", tmp_path / "y.npz", "--std")
    with np.load(tmp_path / "y.npz") as arrays:
        np.testing.assert_array_equal(arrays["data"], filled[list("bdac")])
        np.testing.assert_array_equal(arrays["std"], std[list("bdac")])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_arrays_keep_their_bits_in_a_table_of_text(dtype, run, tmp_path):
    given = GAPS.astype(dtype)
    np.save(tmp_path / "x.npy", given)
    done("impute", run, tmp_path / "x.npy", "-o", tmp_path / "y.csv")
    with (tmp_path / "y.csv").open() as file:
        assert file.readline() == "data_1,data_2,data_3,data_4\n"
        found = np.loadtxt(file, delimiter=",").astype(dtype)
    np.testing.assert_array_equal(found[~np.isnan(given)], given[~np.isnan(given)])
    whole = np.array([[2**60 + 1, 2, 3, 4], [5, 6, 7, 8]])
    np.save(tmp_path / "whole.npy", whole)
    for name in ("y.csv", "y.npy"):
        done("impute", run, tmp_path / "whole.npy", "-o", tmp_path / name)
    assert (tmp_path / "y.csv").read_text().splitlines()[1] == "1152921504606846977,2,3,4"
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), whole)


def test_a_parquet_table_keeps_its_names_its_types_and_its_text(run, tmp_path):
    counts = pd.array([2**60 + 1, None, *range(78)], dtype="Int64")
    frame = HOLES.assign(b=counts, who=[f"row, {j}" for j in range(80)], a=TABLE.a > 0)[["who", *"dcba"]]
    frame.to_parquet(tmp_path / "x.parquet")
    done("impute", run, tmp_path / "x.parquet", "-o", tmp_path / "y.csv", "--std")
    found = pd.read_csv(tmp_path / "y.csv", dtype={"b": str})
    assert list(found.columns) == ["who", *"dcba", "std_d", "std_c", "std_b", "std_a"]
    assert found.b[0] == str(2**60 + 1)
    assert found.b[2:].tolist() == [str(j) for j in range(78)]
    pd.testing.assert_series_equal(found.who, frame.who, check_dtype=False)
    assert found.a.tolist() == frame.a.tolist()
    known = frame.d.notna()
    np.testing.assert_array_equal(found.d[known], frame.d[known])
    assert found.notna().to_numpy().all()
    words = "columns that are not numeric: who; write a .csv file"
    refused(words, "impute", run, tmp_path / "x.parquet", "-o", tmp_path / "y.npy")
    refused("has other columns: who", "score", run, tmp_path / "x.parquet")


@pytest.mark.parametrize("output", ["y.csv", "y.npy"])
def test_a_table_without_rows_leaves_no_file(output, run, tmp_path):
    TABLE[:0].to_parquet(tmp_path / "x.parquet")
    refused("x.parquet holds no rows", "impute", run, tmp_path / "x.parquet", "-o", tmp_path / output)
    assert not (tmp_path / output).exists()


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npy"])
def test_infinity_is_refused_where_nothing_is_missing(suffix, run, tmp_path):
    path, infinite = tmp_path / f"x.{suffix}", TABLE.replace(X[3, 1], np.inf)
    if suffix == "npy":
        np.save(path, infinite)
    else:
        getattr(infinite, f"to_{suffix}")(path, index=False)
    refused("infinity", "impute", run, path, "-o", tmp_path / "y.csv")


@pytest.mark.parametrize("steps", [["--remove-mean"], ["--whiten", "zca"]])
def test_a_model_of_changed_rows_fills_in_nothing(steps, files, tmp_path):
    done("fit", files / "table.csv", "-o", tmp_path / "run", "--components", 1, "--max-iter", 1, *steps)
    words = "was learned from rows that were whitened or lost their means"
    refused(words, "impute", tmp_path / "run", files / "gaps.npy", "-o", tmp_path / "y.csv")


# --- Dialects: the table as other programs write it, and None where it is read right or else what is said


def joined(separator=",", decimal=".", head=True, end="\n", last="", gap="", values=GAPS):
    rows = [[gap if np.isnan(x) else f"{x:.4f}".replace(".", decimal) for x in row] for row in values]
    rows = [list("abcd"), *rows] if head else rows
    return "".join(separator.join(row) + last + end for row in rows)


def grouped(x):
    return f"{x:,.2f}".replace(",", "_").replace(".", ",").replace("_", ".")


PLAIN = joined()
DIALECTS = {
    "commas": (PLAIN, None),
    "semicolons": (joined(";"), None),
    "semicolons and commas": (joined(";", ","), None),
    "tabs": (joined("\t"), None),
    "bars": (joined("|"), None),
    "spaces": (joined(" ", gap="NA"), None),
    "Windows": (joined(end="\r\n"), None),
    "a mark": ("\ufeff" + PLAIN, None),
    "UTF-16": (PLAIN.encode("utf-16"), None),
    "quotes": ("\n".join(",".join(f'"{x}"' for x in line.split(",")) for line in PLAIN.splitlines()), None),
    "quoted decimal commas": (HOLES.map(lambda x: str(x).replace(".", ",")).to_csv(index=False, na_rep="NA"), None),
    "a last separator": (joined(last=","), None),
    "a last separator below names": (PLAIN.replace("\n", ",\n").replace("d,", "d"), None),
    "comments": ("# by me\n" + PLAIN.replace("\n", "\n# note\n", 3), None),
    "blank lines": (PLAIN.replace("\n", "\n\n"), None),
    "NA": (joined(gap="NA"), None),
    "NULL": (joined(gap="NULL"), None),
    "a question mark": (joined(gap="?"), None),
    "a dash": (joined(gap="-"), None),
    "no names": (joined(head=False), None),
    "told to Excel": ("sep=;\n" + joined(";"), None),
    "latin-1": (("# größe\n" + PLAIN).encode("latin-1"), "not in UTF-8"),
    "thousands": ("a;b;c;d\n" + "".join(";".join(map(grouped, row)) + "\n" for row in 1e4 * X), "of thousands"),
    "points or thousands": ("a;b;c;d\n" + "1.234;2.345;3.456;4.567\n" * 80, "which may be 1.234 or 1234"),
    "a row too long": (PLAIN + "1,2,3,4,5\n", "5 cells in line 82"),
    "a row too short": (PLAIN + "1,2,3\n", "3 cells in line 82"),
    "too few names": (PLAIN.replace("a,b,c,d", "a,b,c"), "3 cells in line 1 but 4 in every line below"),
    "row numbers": (HOLES.to_csv(), "probably row numbers"),
    "a name twice": (PLAIN.replace("a,b,c,d", "a,b,a,d"), "several columns of the name a"),
    "units": (PLAIN.replace("d\n", "d\nm,m,s,s\n", 1), "'m' in line 2"),
    "a sum": (PLAIN + "sum,,,9\n", "'sum' in line 82"),
    "a title": ("Results\n" + PLAIN, "1 cell in line 1"),
    "years": (joined(values=X).replace("a,b,c,d", "2019,2020,2021,2022"), "may be names or data"),
    "words": (PLAIN.replace("\n", ",x\n").replace("d,x", "d,who"), ("not numeric: who", "other columns: who", "", "")),
}  # fmt: skip


@pytest.fixture(scope="module")
def expected(run, tmp_path_factory):
    """What the commands give for the table as it is."""
    folder = tmp_path_factory.mktemp("expected")
    (folder / "x.csv").write_text(PLAIN)
    score = done("score", run, folder / "x.csv").stdout
    done("encode", run, folder / "x.csv", "-o", folder / "z.npy")
    done("impute", run, folder / "x.csv", "-o", folder / "y.npy")
    return score, np.load(folder / "z.npy"), np.load(folder / "y.npy")


@pytest.mark.parametrize(("content", "words"), DIALECTS.values(), ids=DIALECTS.keys())
def test_no_command_is_silently_wrong_about_a_dialect(content, words, run, expected, tmp_path, monkeypatch):
    file, given = tmp_path / "x.csv", []
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.setattr(fit_command, "learn_and_report", lambda data, *_, **__: given.append(data.rows))
    calls = {
        "fit": ["fit", file, "-o", tmp_path / "run"],
        "score": ["score", run, file],
        "encode": ["encode", run, file, "-o", tmp_path / "z.npy"],
        "impute": ["impute", run, file, "-o", tmp_path / "y.csv"],
    }
    if isinstance(words, str):
        for call in calls.values():
            refused(words, *call)
        assert not given
        return
    for name, word in zip(calls, words or [""] * 4, strict=True):
        if word:
            refused(word, *calls[name])
        elif words is None or name == "impute":
            answer = done(*calls[name])
            assert name != "score" or answer.stdout == expected[0]
    if words is None:
        np.testing.assert_array_equal(given[0], GAPS)
        np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), expected[1])
    monkeypatch.undo()
    done("impute", run, tmp_path / "y.csv", "-o", tmp_path / "again.csv")
    whole = (tmp_path / "y.csv").read_bytes()
    assert (tmp_path / "again.csv").read_bytes() == whole
    if words is None:
        done("impute", run, tmp_path / "y.csv", "-o", tmp_path / "y.npy")
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected[2])
        assert len(whole) > len(file.read_bytes())


# --- What is said


@pytest.mark.parametrize(
    ("name", "content", "typed", "words"),
    [
        ("one.npy", X[:1], "--components 3", "set --components to at most 1"),
        ("deep.npy", np.zeros((3, 5, 6)), "", "has three axes, so it is taken for 3 grey images of 5 × 6 pixels"),
        ("two.npz", {"a": X, "b": X}, "", "holds 'a', 'b'; say which with --key"),
        ("two.npz", {"a": X, "b": X}, "--key c", "not 'c'; choose one of those as --key"),
    ],
)
def test_messages_name_options(name, content, typed, words, tmp_path):
    np.savez(tmp_path / name, **content) if isinstance(content, dict) else np.save(tmp_path / name, content)
    result = invoke("fit", tmp_path / name, "-o", tmp_path / "run", *typed.split())
    assert result.exit_code == 2
    assert words in result.stderr


def test_images_for_a_model_of_a_table_are_refused_in_plain_words(run, tmp_path):
    np.save(tmp_path / "deep.npy", np.zeros((3, 5, 6)))
    words = "deep.npy, having three axes, is taken for images, but the model was learned from a table with 4 columns"
    refused(words, "score", run, tmp_path / "deep.npy")
