"""Schedules as functions, and the callback that applies them to weights and temperatures while `fit` runs."""

import math

import keras
import numpy as np
import pytest

from keras_transformer.distillation import (
    Distiller,
    LossTerm,
    Scheduled,
    cosine,
    linear,
    soft_targets,
    step,
    true_labels,
)


def weight_of(value=1.0):
    return keras.Variable(value, trainable=False)


def distilling(classifier, weight, terms=None, **options):
    keras.utils.set_random_seed(3)
    terms = terms or [LossTerm("true_labels", weight, true_labels)]
    distiller = Distiller(classifier(), classifier(units=11), terms)
    distiller.compile(keras.optimizers.SGD(0.5, **options.pop("optimizer", {})), **options)
    return distiller


@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize(
    ("ramp", "share"),
    [(linear, lambda part: part), (cosine, lambda part: math.sin(part * math.pi / 2) ** 2)],
)
def test_a_ramp_is_its_formula_until_its_end_and_stays_there(ramp, share, steps):
    schedule = ramp(4.0, 1.3, steps)
    for done in range(steps):
        assert schedule(done) == pytest.approx(4.0 + (1.3 - 4.0) * share(done / steps), rel=1e-12)
    assert [schedule(done) for done in (steps, steps + 1, 10**9)] == [1.3] * 3  # to the last bit


def test_steps_change_at_their_step():
    schedule = step([4.0, 2.0, 1.0], at=[3, 5])
    assert [schedule(done) for done in range(7)] == [4.0, 4.0, 4.0, 2.0, 2.0, 1.0, 1.0]
    assert step([2.5], at=[])(11) == 2.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear(math.nan, 1.0, 5), r"start=nan must be a finite number"),
        (lambda: cosine(1.0, math.inf, 5), r"stop=inf must be a finite number"),
        (lambda: linear(1.0, 0.0, 0), r"steps=0 must be a whole number of at least 1"),
        (lambda: step([1.0, 2.0], at=[]), r"one value more than steps.*step\(\[4.0, 2.0, 1.0\], at=\[100, 200\]\)"),
        (lambda: step([1.0, 2.0, 3.0], at=[5, 5]), r"values=\[1.0, 2.0, 3.0\] at=\[5, 5\].*must go up"),
        (lambda: step([1.0, 2.0], at=[0]), r"at=0 must be a whole number of at least 1"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_number_can_not_be_scheduled():
    with pytest.raises(
        TypeError, match=r"temperature: 2.0 is no keras.Variable.*keras.Variable\(2.0, trainable=False\)"
    ):
        Scheduled("temperature", 2.0, linear(2.0, 1.0, 5))


@pytest.mark.parametrize("name", ["loss", "true_labels"])
def test_a_name_that_the_logs_have_is_refused(classifier, rows, name):
    weight = weight_of()
    with pytest.raises(ValueError, match=rf"the logs already hold '{name}'.*Use for example name='{name}_weight'"):
        distilling(classifier, weight).fit(*rows, verbose=0, callbacks=[Scheduled(name, weight, linear(1.0, 0.0, 5))])


def test_a_schedule_that_gives_no_number_stops_training(classifier, rows):
    weight = weight_of()
    with pytest.raises(ValueError, match="true_labels_weight=nan must be a finite number"):
        distilling(classifier, weight).fit(
            *rows, verbose=0, callbacks=[Scheduled("true_labels_weight", weight, lambda done: math.nan)]
        )


def test_each_batch_trains_with_its_own_weight_and_temperature(classifier, rows):
    """One compiled step for all values: the losses are those of Distillers with fixed numbers, batch by batch."""
    x, labels = rows
    weight, temperature = weight_of(), weight_of(3.0)
    distiller = distilling(classifier, weight, [LossTerm("soft_targets", weight, soft_targets(temperature))])
    twin = keras.models.clone_model(distiller.student)
    twin.set_weights(distiller.student.get_weights())
    schedules = linear(0.7, 0.1, 4), step([3.0, 1.5], at=[2])
    distiller.fit(
        x,
        labels,
        batch_size=5,
        epochs=1,
        shuffle=False,
        verbose=0,
        callbacks=[
            Scheduled("soft_targets_weight", weight, schedules[0]),
            Scheduled("temperature", temperature, schedules[1]),
        ],
    )
    optimizer = keras.optimizers.SGD(0.5)
    for done, start in enumerate(range(0, len(x), 5)):
        fixed = Distiller(
            twin, distiller.teacher.model, [LossTerm("s", schedules[0](done), soft_targets(schedules[1](done)))]
        )
        fixed.compile(optimizer, run_eagerly=True)
        fixed.train_on_batch(x[start : start + 5], labels[start : start + 5])
    for ours, theirs in zip(distiller.student.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "want"),
    [
        # 23 rows in batches of 5 are 5 steps an epoch; the history has the value of each epoch's last batch.
        ({}, [4, 9, 14]),
        ({"steps_per_execution": 2}, [4, 9, 14]),
        ({"optimizer": {"gradient_accumulation_steps": 3}}, [4 // 3, 9 // 3, 14 // 3]),
    ],
)
def test_the_history_shows_the_value_by_the_optimizers_own_steps(classifier, rows, options, want):
    weight = weight_of()
    seen = []
    later = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs["true_labels_weight"]))
    history = distilling(classifier, weight, **options).fit(
        *rows,
        batch_size=5,
        epochs=3,
        verbose=0,
        callbacks=[Scheduled("true_labels_weight", weight, linear(0.0, 100.0, 100)), later],
    )
    np.testing.assert_allclose(history.history["true_labels_weight"], want, rtol=1e-6)
    assert seen == history.history["true_labels_weight"]


def test_several_steps_in_one_execution_share_the_first_ones_value(classifier, rows):
    weight, seen = weight_of(), []
    scheduled = Scheduled("true_labels_weight", weight, lambda done: seen.append(done) or float(done))
    distilling(classifier, weight, steps_per_execution=3).fit(
        *rows, batch_size=5, epochs=2, verbose=0, callbacks=[scheduled]
    )
    assert seen == [0, 3, 5, 8]


def test_a_run_that_goes_on_goes_on_at_the_same_value(classifier, rows, tmp_path):
    def values(epochs, stop_after=None):
        weight, schedule = weight_of(), cosine(2.0, 0.5, 17)
        callbacks = [
            Scheduled("true_labels_weight", weight, schedule),
            keras.callbacks.BackupAndRestore(str(tmp_path / "state")),
        ]
        if stop_after is not None:

            def stop(epoch, logs):
                if epoch == stop_after:
                    raise KeyboardInterrupt

            callbacks.append(keras.callbacks.LambdaCallback(on_epoch_begin=stop))
        distiller = distilling(classifier, weight)
        return distiller.fit(*rows, batch_size=5, epochs=epochs, verbose=0, callbacks=callbacks).history

    whole = values(4)["true_labels_weight"]
    with pytest.raises(KeyboardInterrupt):
        values(4, stop_after=2)
    assert values(4)["true_labels_weight"] == whole[2:]
