"""Which error is whose, where it needs no process of its own to see."""

import errno

import tensorflow as tf

from keras_transformer.checks import UserError, positive_integer
from keras_transformer.cli import failures


def raised(function, *arguments) -> Exception:
    try:
        function(*arguments)
    except failures.kinds_to_look_at() as error:
        return error
    raise AssertionError("nothing was raised")


def fail(error: Exception) -> None:
    raise error


def test_a_full_disk_that_tensorflow_notices_is_the_users_to_mend():
    words = "{{node Save}} data-00000-of-00001; No space left on device [Op:SaveV2]"
    error = raised(fail, tf.errors.ResourceExhaustedError(None, None, words))
    assert failures.is_users_mistake(error)
    assert failures.users_line(error) == (
        "the disk is full, nothing was written (data-00000-of-00001; No space left on device). "
        "Free some room or give another place."
    )


def test_a_full_disk_is_known_by_the_errors_number_not_by_words_in_its_text():
    assert failures.is_full_disk(OSError(errno.ENOSPC, "kein Platz", "model.tflite"))
    assert not failures.is_full_disk(OSError(errno.EIO, "No space left on device?"))
    assert not failures.is_full_disk(ValueError("the text 'No space left on device' has no label"))


def test_another_error_of_tensorflow_is_a_fault_of_ours():
    assert not failures.is_users_mistake(raised(fail, tf.errors.InvalidArgumentError(None, None, "shapes")))


def test_a_value_error_is_the_users_only_where_our_own_code_raised_it():
    assert failures.is_users_mistake(raised(positive_integer, "epochs", 0))
    assert failures.is_users_mistake(raised(fail, UserError("wherever it comes from")))
    assert not failures.is_users_mistake(raised(fail, ValueError("of this test")))
    assert not failures.is_users_mistake(raised(int, "three"))


def test_a_message_of_many_lines_becomes_one():
    assert failures.one_line("  a\n\tb  c\r\n") == "a b c"
