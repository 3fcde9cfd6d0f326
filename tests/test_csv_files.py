"""Whatever has written a .csv file, it is read right or refused in one line; filling it in changes its gaps alone."""

import io

import numpy as np
import pandas as pd
import pytest

from sparsentropy.datasets import CsvTable, columns_of, csv_files, load_array

NAN = np.nan
TWO = [[1, 2], [3, 4]]

# What is in the file, the numbers, and the names of the columns
RIGHT = {
    "commas": ("a,b\n1,2\n3,4\n", TWO, "ab"),
    "semicolons": ("a;b\n1;2\n3;4\n", TWO, "ab"),
    "tabs": ("a\tb\n1\t2\n3\t4\n", TWO, "ab"),
    "bars": ("a|b\n1|2\n3|4\n", TWO, "ab"),
    "spaces": ("a b\n1 2\n3 4\n", TWO, "ab"),
    "spaces after commas": ("a, b\n1, 2\n3, 4\n", TWO, "ab"),
    "the separator told to Excel": ("sep=;\na;b\n1;2\n3;4\n", TWO, "ab"),
    "decimal commas": ("a;b\n1,120;-1,996\n0,25;3\n", [[1.12, -1.996], [0.25, 3]], "ab"),
    "decimal commas and tabs": ("a\tb\n1,5\t2\n3,25\t\n", [[1.5, 2], [3.25, NAN]], "ab"),
    "decimal commas in quotes": ('a,b\n"1,5",2\n"3,25",4\n', [[1.5, 2], [3.25, 4]], "ab"),
    "a comma in a name": ("a, in cm;b\n1,5;2\n3,25;4\n", [[1.5, 2], [3.25, 4]], ["a, in cm", "b"]),
    "all in quotes": ('"a","b"\n"1","2"\n"3","4"\n', TWO, "ab"),
    "a separator in a name": ('"a,1",b\n1,2\n3,4\n', TWO, ["a,1", "b"]),
    "a name of two lines": ('a,"b\nc"\n1,2\n3,4\n', TWO, ["a", "b\nc"]),
    "quotes in a name": ('a,"""b"""\n1,2\n3,4\n', TWO, ["a", '"b"']),
    "a mark of UTF-8": ("\ufeffa,b\n1,2\n3,4\n", TWO, "ab"),
    "UTF-16": ("a,b\n1,2\n3,4\n".encode("utf-16"), TWO, "ab"),
    "UTF-16, high byte first": (b"\xfe\xff" + "ä;b\n1,5;2\n3;4\n".encode("utf-16-be"), [[1.5, 2], [3, 4]], "äb"),
    "names in any script": ("größe,尺\n1,2\n3,4\n", TWO, ["größe", "尺"]),
    "ends of lines of Windows": ("a,b\r\n1,2\r\n3,4\r\n", TWO, "ab"),
    "ends of lines of old Macs": ("a,b\r1,2\r3,4\r", TWO, "ab"),
    "no end of the last line": ("a,b\n1,2\n3,4", TWO, "ab"),
    "comments above": ("# made by x\n# more, of it\na,b\n1,2\n3,4\n", TWO, "ab"),
    "comments between": ("a,b\n1,2\n# note\n3,4\n# end\n", TWO, "ab"),
    "names in a comment, by savetxt": ("# a,b\n1.0,2.0\n3.0,4.0\n", TWO, "ab"),
    "blank lines": ("\na,b\n\n1,2\n   \n3,4\n\n", TWO, "ab"),
    "a last separator": ("a,b,\n1,2,\n3,4,\n", TWO, "ab"),
    "a last separator below names": ("a,b\n1,2,\n3,4,\n", TWO, "ab"),
    "a last separator without names": ("1,2,\n3,4,\n", TWO, None),
    "no names": ("1.5,2\n3,4\n", [[1.5, 2], [3, 4]], None),
    "no names, True and False": ("True,False\nFalse,True\n", [[1, 0], [0, 1]], None),
    "true and false": ("a,b\ntrue,1\nfalse,2\n,3\n", [[1, 1], [0, 2], [NAN, 3]], "ab"),
    "columns that pandas numbers": ("0,1,2\n0.5,1.5,2.0\n0.1,1.0,2.0\n", [[0.5, 1.5, 2], [0.1, 1, 2]], None),
    "years in quotes": ('"2019","2020"\n1,2\n3,4\n', TWO, ["2019", "2020"]),
    "years beside a word": ("id,2019,2020\n1,2,3\n", [[1, 2, 3]], ["id", "2019", "2020"]),
    "a year among words": ("a,2020,c\n1,2,3\n", [[1, 2, 3]], ["a", "2020", "c"]),
    "a # that belongs to a name": ("#a,b\n1,2\n3,4\n", TWO, ["#a", "b"]),
    "no names, first row even": ("1,2,3\n4,5,6\n7,9,8\n", [[1, 2, 3], [4, 5, 6], [7, 9, 8]], None),
    "what is missing": (
        "a,b\n,1\nNA,2\nNULL,3\n-,4\n?,5\n.,6\n #N/A ,7\n\\N,8\n5,9\n",
        [*([NAN, j] for j in range(1, 9)), [5, 9]],
        "ab",
    ),
    "a row of which nothing is known": ("a,b\n1,2\n,\n3,4\n", [[1, 2], [NAN, NAN], [3, 4]], "ab"),
    "signs and exponents": ("a,b\n+1,2e-3\n-.5,5.\n", [[1, 0.002], [-0.5, 5]], "ab"),
    "infinity": ("a,b\ninf,2\n1,-Infinity\n", [[np.inf, 2], [1, -np.inf]], "ab"),
    "one column": ("a\n1\n2\n", [[1], [2]], "a"),
    "one column, one value missing": ('a\n1\n""\n3\n\n', [[1], [NAN], [3]], "a"),
    "one column, a last separator": ("a,\n1,\n3,\n", [[1], [3]], "a"),
    "one row": ("1,2,3\n", [[1, 2, 3]], None),
    "numbers of many digits": (
        "a\n0.1\n1.7976931348623157e308\n5e-324\n",
        [[0.1], [1.7976931348623157e308], [5e-324]],
        "a",
    ),
}


def written(folder, content):
    file = folder / "x.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize(("content", "numbers", "names"), RIGHT.values(), ids=RIGHT.keys())
def test_files_are_read_right(content, numbers, names, tmp_path):
    file = written(tmp_path, content)
    np.testing.assert_array_equal(load_array(file), np.array(numbers, float))
    found = columns_of(file)
    assert (found and list(found.names)) == (names and list(names))


@pytest.mark.parametrize("content", [content for content, _, _ in RIGHT.values()], ids=RIGHT.keys())
def test_nothing_changes_but_what_is_filled_in(content, tmp_path):
    file = written(tmp_path, content)
    table = CsvTable.open(file)
    columns, encoding = range(len(table.dialect.kinds)), table.dialect.encoding
    before = load_array(file)
    same = "".join(table.filled(columns, lambda x: (x, x), std=False)).encode(encoding)
    if not np.isnan(before).any():
        assert same == file.read_bytes()
    columns = [j for j in columns if table.dialect.kinds[j] == "numbers"]  # a third is neither true nor false
    whole = "".join(table.filled(columns, lambda x: (np.full(x.shape, 1 / 3), x), std=False))
    after = load_array(written(tmp_path, whole.encode(encoding)))
    gaps = np.isnan(before) & np.isin(np.arange(before.shape[1]), columns)
    np.testing.assert_array_equal(after, np.where(gaps, 1 / 3, before))


REFUSED = {
    "points or thousands": ("a;b\n1.120;996\n3.180;2.398\n", r"1\.120, which may be 1\.120 or 1120"),
    "commas or thousands": ("a;b\n1,120;-1,996\n-3,180;-2,398\n", r"1,120, which may be 1\.120 or 1120"),
    "thousands in quotes": ('a,b\n"1,500",2\n"3,000",4\n', r"1,500, which may be 1\.500 or 1500"),
    "thousands and points": ('a,b\n"1,500.5",2\n"3,000.5",4\n', r"not numeric: a \(such as '1,500.5'\); .* thousands"),
    "spaces in thousands": ("a;b\n1 500;2\n3 000;4\n", r"not numeric: a .* without separators of thousands"),
    "thousands once": ("a;b\n0,5;1\n1,5;2\n1.500,5;3\n", "'1.500,5' in line 4, column 'a'.*without separators of thou"),
    "points and commas": ("a;b\n1,5;2.5\n3,5;4\n", r"decimal points \('2\.5'\) and commas \('1,5'\)"),
    "a comma without quotes": ("a\n1,5\n2,5\n", "1 cell in line 1 but 2 in every line below, separated by commas"),
    "spaces of all lengths": ("a   b\n1   2\n30  4\n", "separated by spaces, but not all rows alike"),
    "latin-1": ("länge,b\n1,2\n".encode("latin-1"), "is not in UTF-8: see line 1, 'länge,b'; save it as UTF-8"),
    "latin-1 further down": (b"a,b\n" + b"1,2\n" * 7_000 + b"1,\xe4\n", "not in UTF-8: see line 7002, '1,ä'"),
    "UTF-16 without a mark": ("a,b\n1,2\n".encode("utf-16-le"), "is no text, or is in UTF-16 without its mark"),
    "half of UTF-16": ("a,b\n1,2\n".encode("utf-16")[:-1], "is damaged: it is in utf-16-le"),
    "UTF-32": ("a,b\n1,2\n".encode("utf-32"), "is in UTF-32; save it as UTF-8"),
    "no text": (bytes(range(256)), "is no text"),
    "a row too long": ("a,b\n1,2\n3,4,5\n", "3 cells in line 3, but 2 in line 1, separated by commas"),
    "a row too short": ("a,b,c\n1,2,3\n4,5\n", "2 cells in line 3, but 3 in line 1"),
    "a row too long further down": (
        "a,b\n" + "1,2\n" * 7_000 + "3,4,5\n",
        "3 cells in line 7002, but 2 in the lines",
    ),
    "too few names": ("a,b\n1,2,3\n4,5,6\n", "2 cells in line 1 but 3 in every line below"),
    "too many names": ("a,b,c\n1,2\n4,5\n", "3 cells in line 1 but 2 in every line below"),
    "a title": ("My data\na,b\n1,2\n3,4\n", "1 cell in line 1 but 2 in every line below.*remove what stands above"),
    "a last line of words": ("a,b\n1,2\n3,4\nSource: me\n", "1 cell in line 4, but 2 in line 1"),
    "a sum below": ("a,b\n1,2\n3,4\nTotal,6\n", "'Total' in line 4, column 'a', where others are numbers"),
    "units": ("a,b\nm,s\n1,2\n3,4\n5,6\n", "'m' in line 2, column 'a', .* remove this line if it holds units"),
    "units of which some are empty": ("a,b\n,s\n1,2\n3,4\n", "'s' in line 2, column 'b'"),
    "units that are dashes": ("a,b\n-,-\n1,2\n3,4\n", "-, - in line 2, where nothing is known or units"),
    "a row that is a comment": ("a,b\n1,2\n#5,6\n3,4\n", "'#5' in line 3, column 'a'"),
    "a word": ("a,b\n1,2\n3,x\n4,5\n", "'x' in line 3, column 'b', where others are numbers"),
    "a word further down": ("a,b\n" + "1,2\n" * 7_000 + "3,x\n", "'x' in line 7002, column 'b'"),
    "a decimal comma further down": ("a;b\n" + "1;2\n" * 7_000 + "3;4,5\n", "'4,5' in line 7002.*points in the numb"),
    "a decimal point further down": ("a;b\n" + "1,5;2\n" * 5_000 + "3;4.500\n", r"'4\.500' in line 5002.*commas in"),
    "more after the last separator": ("a,b\n" + "1,2,\n" * 6_000 + "3,4,5\n", "'5' in line 6002 after the last sep"),
    "two spaces further down": ("a b\n" + "1 2\n" * 7_000 + "1  2\n", "3 cells in line 7002"),
    "an open quote": ('a,b\n1,"2\n3,4\n', "a quote in line 2 that is never closed"),
    "an open quote further down": ("a,b\n" + "1,2\n" * 7_000 + '3,"4\n5,6\n', r"'4\\n5,6' in line 7002"),
    "True among numbers": ("a,b\nTrue,1\n2,3\n0,4\n", "'True' in line 2, column 'a', where others are numbers"),
    "a number among True": ("a,b\nTrue,1\nFalse,3\n0,4\n", "'0' in line 4, column 'a', where others are True or False"),
    "words": ("a,b\n1,x\n2,y\n", r"columns that are not numeric: b \(such as 'x'\); drop or encode them first"),
    "dates": ("a,b\n1,2024-01-01\n2,2024-01-02\n", r"not numeric: b \(such as '2024-01-01'\)"),
    "shares": ("a,b\n1,5%\n2,6%\n", r"not numeric: b \(such as '5%'\)"),
    "hexadecimal": ("a,b\n0x10,2\n3,4\n5,6\n", "'0x10' in line 2"),
    "an underscore": ("a,b\n1_000,2\n3,4\n5,6\n", "'1_000' in line 2"),
    "an error of Excel": ("a,b\n1,2\n#DIV/0!,3\n5,6\n", "'#DIV/0!' in line 3, column 'a'"),
    "row numbers of pandas": (",a,b\n0,1,2\n1,3,4\n", "column without a name, probably row numbers"),
    "row numbers written twice": ("Unnamed: 0,a\n0,1\n1,2\n", "column without a name, probably row numbers"),
    "row numbers of R": ('"a","b"\n"1",1.5,2\n"2",3,4\n', "2 cells in line 1 but 3 in every line below"),
    "a name that is empty": ("a,,c\n1,2,3\n4,5,6\n", "column without a name"),
    "a name twice": ("a,b,a\n1,2,3\n", "several columns of the name a; rename them"),
    "years": ("1950,1951,1952\n1.5,2.5,3.5\n", "1950, 1951, 1952 in line 1, which may be names or data"),
    "two years": ("2019,2020\n1.5,2.5\n", "2019, 2020 in line 1, which may be names or data"),
    "wavelengths": ("400.5,401,401.5\n1,2,5\n3,8,6\n", r"400\.5, 401, 401\.5 in line 1, which may be names or data"),
    "two numbers that pandas may have written": ("0,1\n0.1,0.9\n0.2,0.7\n", "0, 1 in line 1, which may be names or"),
    "years above whole numbers": ("2019,2020\n33,44\n12,11\n", "2019, 2020 in line 1, which may be names or data"),
    "a number above numbers with points": ("1990\n1.5\n2.5\n", "1990 in line 1, which may be names or data"),
    "halves of one number": ("-0,08\n0,15\n", "'-0,08' in a row, which may be one number or two"),
    "halves with leading zeros": ("1,08\n2,15\n", "'1,08' in a row, which may be one number or two"),
    "halves with exponents": ("1,5e-7\n2,15\n", "'1,5e-7' in a row, which may be one number or two"),
    "groups of digits": ("448,413.00\n261,572.00\n", r"'448,413\.00' in a row, which may be one number or two"),
    "a row number, or a last separator": ("a,b\n0,1.5,\n1,2.5,\n", "2 cells in line 1 but 3 in every line below"),
    "words and numbers": ("abc,2,7\n4,5,6\n", "abc, 2, 7 in line 1, which may be names or data"),
    "a first line of nothing": (",,\n1,2,3\n", "only empty cells in line 1"),
    "names alone": ("a,b\n", "holds no rows"),
    "blank lines alone": ("\n\n", "holds no rows"),
    "a blank line in one column": ("a\n1\n\n3\n", "a blank line, line 3, in its only column"),
    "JSON": ('{"a": [1,2],\n "b": [3,4]}\n', "cells in line 1"),
    "escape characters": ("a\x1b[31m,b\n1,x\x1b[0m\n", r"^[^\x1b]*not numeric: b \(such as 'x\\x1b\[0m'\)"),
}


@pytest.mark.parametrize(("content", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_files_are_refused_in_one_line(content, words, tmp_path):
    file = written(tmp_path, content)
    with pytest.raises(ValueError, match=words) as caught:
        load_array(file)
    message = str(caught.value)
    assert message.startswith(f"{file} ")
    assert "\n" not in message
    assert len(message) < len(str(file)) + 330


def test_a_large_file_is_read_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_files, "BLOCK", 2000)
    X = np.random.default_rng(0).normal(size=(400, 5))
    pd.DataFrame(X, columns=list("abcde")).to_csv(tmp_path / "x.csv", index=False)
    table = CsvTable.open(tmp_path / "x.csv")
    parts = list(table.numbers([4, 1]))
    assert len(parts) > 10
    np.testing.assert_array_equal(np.concatenate(parts), X[:, [4, 1]])
    copy = "".join(table.filled(range(5), lambda x: (x, x), std=False))
    assert copy.encode() == (tmp_path / "x.csv").read_bytes()


def test_filled_in_columns_are_in_their_places_with_standard_deviations(tmp_path):
    text = '# of us\r\nwho;size;"a;ge"\r\nAnn;1,50;NA\r\n\r\nB;;7\r\n'
    table = CsvTable.open(written(tmp_path, text))
    assert table.dialect.names == ("who", "size", "a;ge")
    known, spread = np.array([[70.125, 2.0], [7.0, 1.5]]), np.array([[0.5, 0.0], [0.0, 1e-20]])
    found = "".join(table.filled([2, 1], lambda x: (np.where(np.isnan(x), known, x), spread), std=True))
    assert found == (
        '# of us\r\nwho;size;"a;ge";std_size;"std_a;ge"\r\nAnn;1,50;70,125;0,0;0,5\r\n\r\nB;1,5;7;1e-20;0,0\r\n'
    )
    taken = CsvTable.open(written(tmp_path, "a,std_a\n1,2\n"))
    with pytest.raises(ValueError, match=r"columns of the names that standard deviations would get \(std_a\)"):
        "".join(taken.filled([0], lambda x: (x, x), std=True))


@pytest.mark.parametrize("columns", [None, ["c", "a"]])
def test_columns_are_chosen_by_name(columns, tmp_path):
    frame = pd.DataFrame(np.arange(6.0).reshape(2, 3), columns=list("abc"))
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.to_parquet(tmp_path / "x.parquet")
    for name in ("x.csv", "x.parquet"):
        np.testing.assert_array_equal(load_array(tmp_path / name, columns=columns), frame[columns or list("abc")])
        with pytest.raises(ValueError, match=rf"{name} has no columns z; it has a, b, c"):
            load_array(tmp_path / name, columns=["a", "z"])
    np.save(tmp_path / "x.npy", frame)
    with pytest.raises(ValueError, match=r"columns have names in \.csv and \.parquet files only"):
        load_array(tmp_path / "x.npy", columns=["a"])


def test_other_programs_read_the_same_numbers(tmp_path):
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(draw.normal(size=(50, 4)) * 10.0 ** draw.integers(-30, 30, 4), columns=list("abcd"))
    frame.iloc[draw.random(50) < 0.2, 2] = np.nan
    for options in (
        {"sep": ";", "decimal": ","},
        {"sep": "\t"},
        {"quoting": 1},
        {"na_rep": "NA"},
        {"encoding": "utf-16"},
    ):
        text = frame.to_csv(index=False, **options)
        file = written(tmp_path, text.encode(options.get("encoding", "utf-8")))
        known = {name: options[name] for name in ("sep", "decimal") if name in options}
        other = pd.read_csv(io.StringIO(text), **known)
        np.testing.assert_allclose(load_array(file), other, rtol=1e-15)
        np.testing.assert_array_equal(load_array(file), frame)
