from taro.view.evaluated import read_evaluation
from taro.view.gallery import gallery_orders, gallery_rows, shown_first


def test_orders(write_evaluation):
    run = read_evaluation(write_evaluation(shift=0.3))
    orders = gallery_orders([run])
    assert set(orders) == {"worst", "best", "random", "file"} and all(sorted(one) == list(range(30)) for one in orders.values())
    assert orders["best"][0] == 0 and orders["worst"][0] == 27  # the same IoU of 0 as before, but farther away
    assert set(orders["worst"][-2:]) == {28, 29}  # without an answer
    assert orders["random"] == gallery_orders([run])["random"] != orders["file"]


def test_orders_of_two_runs(write_evaluation):
    runs = [read_evaluation(write_evaluation("base", 0.1)), read_evaluation(write_evaluation("trained", 0.0))]
    orders = gallery_orders(runs)
    assert orders["differ"][0] == orders["gained"][0] == 27 and orders["lost"][-1] == 27
    assert gallery_orders(runs[::-1])["lost"][0] == 27


def test_rows(write_evaluation, samples, markup):
    rows = gallery_rows([read_evaluation(write_evaluation())])
    first, last = rows[4]["runs"][0], rows[-1]["runs"][0]
    assert (rows[4]["id"], rows[4]["t"], rows[4]["d"], rows[4]["known"]) == ("s4", [[2.0, 7.0]], 20.0, 1)
    assert [first["c"][a:b] for a, b in zip(first["n"][::2], first["n"][1::2], strict=True)] == ["2.4", "7.4"]
    assert last == {"a": None, "i": 0.0, "c": None, "n": [], "f": "missing_video", "r": f"nowhere.mp4 does not exist {markup}"}


def test_what_is_shown_first_are_the_tops_of_all_orders(samples):
    found = shown_first(samples, {"a": [3, 4, 5], "b": [5, 3, 1]}, page=2)
    assert found == [samples[3], samples[5], samples[4]]
