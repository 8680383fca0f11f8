"""What is made once for a folder is made once: its files run in one process, all others each where there is room."""

import pytest
from file_groups import group_of


@pytest.mark.parametrize(
    ("nodeid", "group"),
    [
        ("tests/export/test_tflite.py::test_a[none]", "tests/export/"),
        ("tests/export/test_c_api.py::test_b", "tests/export/"),
        ("tests/exported/test_a.py::test_b", "tests/exported/test_a.py"),
        ("tests/layers/test_masks.py::test_a[x::y]", "tests/layers/test_masks.py"),
        ("tests/test_files.py::test_a", "tests/test_files.py"),
    ],
)
def test_a_folder_or_a_file_goes_to_one_process(nodeid, group):
    assert group_of(nodeid) == group
