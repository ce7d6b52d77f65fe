from taro.messages import MISSING, first_lines, first_names, list_lines, list_problems, print_table, shorten, signed


def test_values_are_shown_as_json_and_cut():
    assert [shorten(value) for value in (None, "é", [1, "a"])] == ["null", '"é"', '[1, "a"]']
    assert shorten(MISSING) == "nothing (the field is missing)"
    assert len(shorten("x" * 1000)) == 80 and shorten("x" * 1000).endswith("...")
    assert "object" in shorten(object())


def test_the_first_are_shown_and_the_others_counted():
    lines = [str(number) for number in range(23)]
    assert first_lines(lines[:20]) == lines[:20]
    assert first_lines(lines) == [*lines[:20], "and 3 more"]
    assert first_lines(lines[:3], shown=2) == ["0", "1", "and 1 more"]
    assert list_lines("head:", ["a", "b"]) == "head:\n- a\n- b"
    assert first_names(range(3)) == "0, 1, 2" and first_names(range(4)) == "0, 1, 2, ..."


def test_a_single_problem_speaks_for_itself():
    assert list_problems("can't:", ["a"]) == "a"
    assert list_problems("can't:", ["a", "b"]) == "can't:\n- a\n- b"


def test_a_table(capsys):
    print_table(["name", "value"], [("[red]a", "1")])
    shown = capsys.readouterr().out
    assert "name" in shown and "1" in shown and "[red]a" in shown


def test_zero_has_no_sign():
    assert [signed(value) for value in (0.0, -0.0004, 0.0006, -0.25)] == ["0.000", "0.000", "+0.001", "-0.250"]
