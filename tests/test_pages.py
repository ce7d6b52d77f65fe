"""Pages with a table that is printed anew: benchmarks/pages.py."""


def test_text_around_a_table_stays(import_benchmark, tmp_path):
    pages, page = import_benchmark("pages"), tmp_path / "page.md"
    pages.write_table(page, "Title", "one")
    assert page.read_text() == "# Title\n\n<!-- table -->\n\none\n"
    pages.write_table(page, "Title", "two")
    assert page.read_text() == "# Title\n\n<!-- table -->\n\ntwo\n"
    page.write_text("# Mine\n\nText.\n\n<!-- table -->\n\nold\n\n<!-- end of table -->\n\n## More\n")
    pages.write_table(page, "Title", "three")
    whole = "# Mine\n\nText.\n\n<!-- table -->\n\nthree\n\n<!-- end of table -->\n\n## More\n"
    assert page.read_text() == whole
    pages.write_table(page, "Title", "three")
    assert page.read_text() == whole
    page.write_text("# Without\n")
    pages.write_table(page, "Title", "four")
    assert page.read_text() == "# Without\n\n<!-- table -->\n\nfour\n"
