from taro.view.uploads import Uploads


def test_a_file_goes_with_the_last_session_that_has_it(tmp_path):
    uploads, first, second = Uploads(), tmp_path / "first.mp4", tmp_path / "second.mp4"
    first.touch(), second.touch()
    uploads.hold("a", str(first))
    uploads.hold("b", str(first))
    uploads.hold("a", str(second))
    assert first.exists()
    uploads.release("b")
    assert not first.exists() and second.exists()
    uploads.hold("a", str(second))
    assert second.exists()
    uploads.release("a"), uploads.release("a"), uploads.release("never came")
    assert not second.exists()
