"""fit, evaluate and predict."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from operator import itemgetter
from typing import Any

import numpy as np
from keras.src import callbacks as callbacks_module
from keras.src import optimizers as optimizers_module
from keras.src.backend import config
from keras.src.trainers import trainer as base_trainer
from keras.src.trainers.data_adapters import array_slicing, data_adapter_utils
from keras.src.trainers.epoch_iterator import EpochIterator
from keras.src.utils import traceback_utils
from keras.src.utils.python_utils import is_default, pythonify_logs

from tilegrad.autograd.grad_mode import no_grad
from tilegrad.keras.backend.core.convert import convert_to_numpy
from tilegrad.keras.backend.core.recording import recording
from tilegrad.keras.backend.nested import tree
from tilegrad.keras.backend.steps import Step, batch_size, gradients

unpack: Any = data_adapter_utils.unpack_x_y_sample_weight


class TilegradTrainer(base_trainer.Trainer):
    """The training loops of a model."""

    # What Keras' Model has of its other bases.
    __call__: Any
    _call_has_training_arg: Any
    _loss_tracker: Any
    history: Any
    optimizer: Any
    trainable_weights: Any

    def __init__(self) -> None:
        super().__init__()
        self.train_function: Any = None
        self.test_function: Any = None
        self.predict_function: Any = None

    # --- one batch

    def train_step(self, data: Any) -> dict[str, Any]:
        """Forward, loss, gradients, update, metrics: their results so far."""
        x, y, sample_weight = unpack(data)
        with recording():
            y_pred = self._forward(x, training=True)
            loss: Any = self._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)
            optimizer: Any = self.optimizer
            to_minimize = loss if optimizer is None else optimizer.scale_loss(loss)
        weights = self.trainable_weights[:]
        found = gradients(to_minimize, weights)
        with no_grad():
            self._loss_tracker.update_state(loss, sample_weight=batch_size(x))
            if weights and optimizer is not None:
                optimizer.apply(found, weights)
            else:
                warnings.warn("The model does not have any trainable weights.", stacklevel=2)
            return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Forward, loss, metrics: their results so far."""
        x, y, sample_weight = unpack(data)
        y_pred = self._forward(x, training=False)
        loss = self._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=False)
        self._loss_tracker.update_state(loss, sample_weight=batch_size(x))
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def predict_step(self, data: Any) -> Any:
        """Forward."""
        x, _, _ = unpack(data)
        return self._forward(x, training=False)

    def _forward(self, x: Any, training: bool) -> Any:
        return self(x, training=training) if self._call_has_training_arg else self(x)

    # --- the functions of loops

    def make_train_function(self, force: bool = False) -> Any:
        """The function that a loop calls with a list of batches; made once, and again where force is True."""
        if self.train_function is None or force:
            self.train_function = self._function("train_step", recording)
        return self.train_function

    def make_test_function(self, force: bool = False) -> Any:
        """As make_train_function."""
        if self.test_function is None or force:
            self.test_function = self._function("test_step")
        return self.test_function

    def make_predict_function(self, force: bool = False) -> Any:
        """As make_train_function; it gives the outputs of all batches, joined."""
        if self.predict_function is None or force:
            self.predict_function = self._function("predict_step", join=_joined)
        return self.predict_function

    def _function(self, name: str, scope: Any = nullcontext, join: Any = itemgetter(-1)) -> Any:
        """The step of that name, captured, for each of a list of batches; what it gives is joined."""
        step = Step(name, getattr(self, name), bool(self.run_eagerly))

        def function(batches: list[Any]) -> Any:
            with scope():
                return join([step(batch) for batch in batches])

        function.step = step  # type: ignore[attr-defined]
        return function

    # --- loops

    @traceback_utils.filter_traceback
    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: Any = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: Any = 1,
    ) -> Any:
        """Train for so many epochs; returns the history of the logs."""
        self._assert_compile_called("fit")
        epochs = _at_most(config.max_epochs(), epochs)
        if validation_split and validation_data is None:
            split: Any = array_slicing.train_validation_split((x, y, sample_weight), validation_split=validation_split)
            (x, y, sample_weight), validation_data = split
        batches = EpochIterator(
            x=x,
            y=y,
            sample_weight=sample_weight,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            shuffle=shuffle,
            class_weight=class_weight,
            steps_per_execution=self.steps_per_execution,
        )
        validation = None
        if validation_data is not None:
            val_x, val_y, val_sample_weight = unpack(validation_data)
            validation = EpochIterator(
                x=val_x,
                y=val_y,
                sample_weight=val_sample_weight,
                batch_size=validation_batch_size or batch_size,
                steps_per_epoch=validation_steps,
                shuffle=False,
                steps_per_execution=self.steps_per_execution,
            )
        self._symbolic_build(iterator=batches)
        batches.reset()
        callbacks = self._callbacks(callbacks, verbose, epochs, batches, add_history=True)

        function = self.make_train_function()
        self.stop_training = False
        logs: dict[str, Any] = {}
        callbacks.on_train_begin()
        for epoch in range(self._initial_epoch or initial_epoch, epochs):
            self.reset_metrics()
            callbacks.on_epoch_begin(epoch)
            logs = self._epoch(function, batches, callbacks)
            if validation is not None and self._should_eval(epoch, validation_freq):
                found = self.evaluate(callbacks=callbacks, return_dict=True, _batches=validation)
                logs.update({f"val_{name}": value for name, value in found.items()})
            callbacks.on_epoch_end(epoch, logs)
            if self.stop_training:
                break
        if isinstance(self.optimizer, optimizers_module.Optimizer) and epochs > 0:
            self.optimizer.finalize_variable_values(self.trainable_weights)
        callbacks.on_train_end(logs=logs)
        return self.history

    def _epoch(self, function: Any, batches: EpochIterator, callbacks: Any) -> dict[str, Any]:
        """All steps of an epoch; the logs at its end."""
        logs: dict[str, Any] = {}
        tells_begin, tells_end = _is_heard(callbacks, "begin"), _is_heard(callbacks, "end")
        for begin, end, data in batches:
            if tells_begin:
                callbacks.on_train_batch_begin(begin)
            logs = function(data)
            if tells_end:
                callbacks.on_train_batch_end(end, logs)
            if self.stop_training:
                break
        return dict(self._get_metrics_result_or_logs(logs))

    @traceback_utils.filter_traceback
    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
        _batches: EpochIterator | None = None,
    ) -> Any:
        """Loss and metrics of these data: one number, a list, or a dict."""
        self._assert_compile_called("evaluate")
        batches = _batches or EpochIterator(
            x=x,
            y=y,
            sample_weight=sample_weight,
            batch_size=batch_size,
            steps_per_epoch=steps,
            shuffle=False,
            steps_per_execution=self.steps_per_execution,
        )
        self._symbolic_build(iterator=batches)
        batches.reset()
        callbacks = self._callbacks(callbacks, verbose, 1, batches)
        function = self.make_test_function()
        self.stop_evaluating = False
        logs: dict[str, Any] = {}
        callbacks.on_test_begin()
        self.reset_metrics()
        for begin, end, data in batches:
            callbacks.on_test_batch_begin(begin)
            logs = function(data)
            callbacks.on_test_batch_end(end, logs)
            if self.stop_evaluating:
                break
        found = pythonify_logs(self._get_metrics_result_or_logs(logs))
        callbacks.on_test_end(found)
        return found if return_dict else self._flatten_metrics_in_order(found)

    @traceback_utils.filter_traceback
    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> Any:
        """The outputs for these data, as arrays of NumPy's."""
        batches = EpochIterator(
            x=x,
            batch_size=batch_size,
            steps_per_epoch=steps,
            shuffle=False,
            steps_per_execution=self.steps_per_execution,
        )
        callbacks = self._callbacks(callbacks, verbose, 1, batches)
        function = self.make_predict_function()
        self.stop_predicting = False
        outputs = []
        callbacks.on_predict_begin()
        for begin, end, data in batches:
            callbacks.on_predict_batch_begin(begin)
            outputs.append(tree.map_structure(convert_to_numpy, function(data)))
            callbacks.on_predict_batch_end(end, {"outputs": outputs[-1]})
            if self.stop_predicting:
                break
        callbacks.on_predict_end()
        return _joined(outputs)

    def _callbacks(
        self, callbacks: Any, verbose: Any, epochs: int, batches: EpochIterator, add_history: bool = False
    ) -> Any:
        """The callbacks as a list that is called as one; itself where they are that."""
        if isinstance(callbacks, callbacks_module.CallbackList):
            return callbacks
        return callbacks_module.CallbackList(
            callbacks,
            add_history=add_history,
            add_progbar=verbose != 0,
            verbose=verbose,
            epochs=epochs,
            steps=batches.num_batches,
            model=self,
        )

    # --- one batch of the program's own

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """One step; its logs."""
        self._assert_compile_called("train_on_batch")
        if class_weight is not None:
            if sample_weight is not None:
                raise ValueError(
                    "Arguments `sample_weight` and `class_weight` cannot be specified at the same time. "
                    f"Received: sample_weight={sample_weight}, class_weight={class_weight}"
                )
            sample_weight = data_adapter_utils.class_weight_to_sample_weights(y, class_weight)
        return self._on_batch(self.make_train_function, (x, y, sample_weight), return_dict)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:
        """Loss and metrics of one batch."""
        self._assert_compile_called("test_on_batch")
        return self._on_batch(self.make_test_function, (x, y, sample_weight), return_dict)

    def _on_batch(self, make: Any, data: Any, return_dict: bool) -> Any:
        self._symbolic_build(data_batch=data)
        function = make()
        self.reset_metrics()
        logs = pythonify_logs(function([data]))
        return logs if return_dict else self._flatten_metrics_in_order(logs)

    def predict_on_batch(self, x: Any) -> Any:
        """The outputs of one batch."""
        return tree.map_structure(convert_to_numpy, self.make_predict_function()([(x,)]))


def _is_heard(callbacks: Any, what: str) -> bool:
    """Whether any callback does something at the begin, or the end, of a batch of training.

    Otherwise nothing is said, and no logs are made into numbers, which takes as long as a step of a small net.
    """
    names = f"on_train_batch_{what}", f"on_batch_{what}"
    if type(callbacks) is not callbacks_module.CallbackList:
        return True
    return any(not is_default(getattr(each, name)) for each in callbacks.callbacks for name in names)


def _at_most(most: int | None, epochs: int) -> int:
    if most and most < epochs:
        warnings.warn(f"Limiting epochs to {most}", stacklevel=3)
        return most
    return epochs


def _joined(results: list[Any]) -> Any:
    """Nested arrays, or tensors, one behind the other."""
    if len(results) == 1:
        return results[0]
    columns = zip(*map(tree.flatten, results))
    joined = [np.concatenate([convert_to_numpy(x) for x in column]) for column in columns]
    return tree.pack_sequence_as(results[0], joined)
